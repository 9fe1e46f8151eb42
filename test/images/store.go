package main

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

//go:embed *.go payload/*
var sources embed.FS

// store is a built set: blobs by digest in dir, and what each name stands for. Also is another set's directory.
type store struct {
	dir  string
	also string
	Refs map[string]v1.Descriptor
}

// open returns the set for this program's own text, building it first if need be.
func open(cache string) (*store, error) {
	key, err := recipeKey()
	if err != nil {
		return nil, err
	}
	if cache, err = filepath.Abs(cache); err != nil {
		return nil, err
	}
	s := &store{dir: filepath.Join(cache, key), Refs: map[string]v1.Descriptor{}}
	if b, err := os.ReadFile(filepath.Join(s.dir, "refs.json")); err == nil {
		return s, json.Unmarshal(b, &s.Refs)
	}
	fmt.Fprintln(os.Stderr, "building test images from Debian packages (once)")
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return nil, err
	}
	tmp, err := os.MkdirTemp(cache, "build-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(tmp)
	b := builder{dir: filepath.Join(tmp, "out"), refs: s.Refs, layers: map[string]layer{}}
	if err := b.build(tmp); err != nil {
		return nil, err
	}
	// Another process may have been quicker: its result is as good.
	if err := os.Rename(b.dir, s.dir); err != nil {
		if _, there := os.Stat(filepath.Join(s.dir, "refs.json")); there != nil {
			return nil, err
		}
		raw, err := os.ReadFile(filepath.Join(s.dir, "refs.json"))
		if err != nil {
			return nil, err
		}
		return s, json.Unmarshal(raw, &s.Refs)
	}
	return s, nil
}

func recipeKey() (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, runtime.GOARCH)
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || strings.HasSuffix(path, "_test.go") {
			return err
		}
		b, err := sources.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s", path, len(b), b)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))[:16], err
}

func (s *store) names() []string {
	var out []string
	for name := range s.Refs {
		out = append(out, name)
	}
	slices.Sort(out)
	return out
}

// ServeHTTP is the reading half of the distribution API.
func (s *store) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	path, ok := strings.CutPrefix(r.URL.Path, "/v2/")
	if !ok || (r.Method != http.MethodGet && r.Method != http.MethodHead) {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", r.URL.Path)
		return
	}
	if path == "" {
		w.Header().Set("Docker-Distribution-Api-Version", "registry/2.0")
		return
	}
	if _, ref, ok := strings.Cut(path, "/blobs/"); ok {
		s.blob(w, r, ref, "application/octet-stream", "BLOB_UNKNOWN")
		return
	}
	name, ref, ok := strings.Cut(path, "/manifests/")
	if !ok {
		refuse(w, http.StatusNotFound, "UNSUPPORTED", path)
		return
	}
	for full, d := range s.Refs {
		if repo, tag := repository(full); repo == name && tag == ref {
			s.blob(w, r, d.Digest.String(), d.MediaType, "MANIFEST_UNKNOWN")
			return
		}
	}
	s.blob(w, r, ref, "", "MANIFEST_UNKNOWN")
}

// blob serves one blob. A manifest asked for by digest tells its own type.
func (s *store) blob(w http.ResponseWriter, r *http.Request, ref, mediaType, code string) {
	d, err := digest.Parse(ref)
	if err != nil {
		refuse(w, http.StatusNotFound, code, ref)
		return
	}
	f, err := s.open(d)
	if err != nil {
		refuse(w, http.StatusNotFound, code, ref)
		return
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		refuse(w, http.StatusInternalServerError, code, ref)
		return
	}
	if mediaType == "" {
		var m struct{ MediaType string }
		if json.NewDecoder(f).Decode(&m) != nil || m.MediaType == "" {
			refuse(w, http.StatusNotFound, code, ref)
			return
		}
		mediaType = m.MediaType
	}
	w.Header().Set("Content-Type", mediaType)
	w.Header().Set("Docker-Content-Digest", d.String())
	http.ServeContent(w, r, "", st.ModTime(), f)
}

func refuse(w http.ResponseWriter, status int, code, detail string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	fmt.Fprintf(w, `{"errors":[{"code":%q,"message":%q}]}`, code, detail)
}
