package fault

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"strings"
)

// registry serves one image of one layer under every repository and tag.
type registry struct {
	*httptest.Server
	objects map[string][]byte // by digest
	main    string            // digest of the manifest
}

func newRegistry() *registry {
	r := &registry{objects: map[string][]byte{}}
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	passwd := "root:x:0:0::/:/bin/sh\n"
	w.WriteHeader(&tar.Header{Name: "etc/", Typeflag: tar.TypeDir, Mode: 0o755})
	w.WriteHeader(&tar.Header{Name: "etc/passwd", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(passwd))})
	w.Write([]byte(passwd))
	w.Close()
	diff := r.put(layer.Bytes())
	config := r.json(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{"Cmd": []string{"sleep"}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff}}})
	part := func(kind, digest string) map[string]any {
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": digest, "size": len(r.objects[digest])}
	}
	r.main = r.json(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": part("config.v1+json", config), "layers": []any{part("layer.v1.tar", diff)}})
	r.Server = httptest.NewServer(r)
	return r
}

func (r *registry) put(b []byte) string {
	d := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	r.objects[d] = b
	return d
}

func (r *registry) json(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return r.put(b)
}

// ref is the name of the image in a repository.
func (r *registry) ref(repository string) string {
	return strings.TrimPrefix(r.URL, "http://") + "/" + repository + ":1"
}

func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	digest := path.Base(req.URL.Path)
	if strings.Contains(req.URL.Path, "/manifests/") {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		digest = r.main
	}
	b, ok := r.objects[digest]
	if !ok {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.Write(b)
}
