package main

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// builtSet is the set in the cache; hack/images.sh builds it, and it takes packages to build.
func builtSet(t *testing.T) *store {
	t.Helper()
	cache := cacheDir()
	if os.Getenv("BERTH_CACHE") == "" {
		cache = "../../.cache/images"
	}
	key, err := recipeKey()
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(filepath.Join(cache, key)); err != nil {
		t.Skip("the set is not built: run hack/images.sh")
	}
	s, err := open(cache)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every name leads to an image for this platform whose blobs are all there and are what they are called.
func TestEveryNameIsWhole(t *testing.T) {
	s := builtSet(t)
	for _, name := range s.names() {
		d := s.Refs[name]
		raw := read(t, s, d)
		if strings.Contains(d.MediaType, "index") || strings.Contains(d.MediaType, "list") {
			var ix v1.Index
			if err := json.Unmarshal(raw, &ix); err != nil {
				t.Fatal(err)
			}
			if len(ix.Manifests) != 1+len(absent()) {
				t.Errorf("%s: %d manifests", name, len(ix.Manifests))
			}
			raw = read(t, s, ix.Manifests[1])
		}
		var m v1.Manifest
		if err := json.Unmarshal(raw, &m); err != nil {
			t.Fatal(err)
		}
		var cfg v1.Image
		if err := json.Unmarshal(read(t, s, m.Config), &cfg); err != nil {
			t.Fatal(err)
		}
		if len(cfg.RootFS.DiffIDs) != len(m.Layers) || len(m.Layers) == 0 {
			t.Errorf("%s: %d layers, %d diff ids", name, len(m.Layers), len(cfg.RootFS.DiffIDs))
		}
		for _, l := range m.Layers {
			read(t, s, l)
		}
	}
}

func read(t *testing.T, s *store, d v1.Descriptor) []byte {
	t.Helper()
	f, err := s.open(d.Digest)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	raw, err := io.ReadAll(f)
	if err != nil {
		t.Fatal(err)
	}
	if digest.FromBytes(raw) != d.Digest || int64(len(raw)) != d.Size {
		t.Errorf("%s is not what it is called", d.Digest)
	}
	return raw
}

// The registry answers by tag and by digest, and says no where there is nothing.
func TestRegistry(t *testing.T) {
	s := builtSet(t)
	srv := httptest.NewServer(s)
	defer srv.Close()
	d := s.Refs["registry.k8s.io/pause:3.9"]
	for path, want := range map[string]int{
		"/v2/":                       200,
		"/v2/pause/manifests/3.9":    200,
		"/v2/pause/manifests/absent": 404,
		"/v2/pause/manifests/" + d.Digest.String():            200,
		"/v2/pause/blobs/" + d.Digest.String():                200,
		"/v2/pause/blobs/" + digest.FromString("").String():   404,
		"/v2/pause/blobs/sha256:../../../../../../etc/passwd": 404,
	} {
		r, err := http.Get(srv.URL + path)
		if err != nil {
			t.Fatal(err)
		}
		io.Copy(io.Discard, r.Body)
		r.Body.Close()
		if r.StatusCode != want {
			t.Errorf("%s: %d, want %d", path, r.StatusCode, want)
		}
	}
}

// A set that was added is served beside ours.
func TestAdd(t *testing.T) {
	s, dir := builtSet(t), t.TempDir()
	layer := filepath.Join(dir, "layer.tar")
	list := filepath.Join(dir, "list.json")
	archive, err := pack([]file{text("/name", "added\n")})
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string]string{layer: string(archive), list: `[{"refs": ["registry.k8s.io/added:1"], "layers": ["` + layer + `"], "config": {"User": "7"}}]`} {
		if err := os.WriteFile(name, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := add(filepath.Join(dir, "set"), list); err != nil {
		t.Fatal(err)
	}
	if err := s.join(filepath.Join(dir, "set")); err != nil {
		t.Fatal(err)
	}
	var m v1.Manifest
	if err := json.Unmarshal(read(t, s, s.Refs["registry.k8s.io/added:1"]), &m); err != nil {
		t.Fatal(err)
	}
	if got := read(t, s, m.Layers[0]); string(got) != string(archive) {
		t.Errorf("%d bytes of layer, put in %d", len(got), len(archive))
	}
	if cfg := string(read(t, s, m.Config)); !strings.Contains(cfg, `"User":"7"`) || !strings.Contains(cfg, digest.FromBytes(archive).String()) {
		t.Errorf("config: %s", cfg)
	}
}
