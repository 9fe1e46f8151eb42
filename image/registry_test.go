package image_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// fakeRegistry serves the pull side of the distribution API.
type fakeRegistry struct {
	*httptest.Server
	mu     sync.Mutex
	blobs  map[string][]byte // digest -> content, manifests too
	types  map[string]string // digest -> media type of a manifest
	tags   map[string]string // repo:tag -> digest
	gets   map[string]int    // method path -> count
	before func(w http.ResponseWriter, r *http.Request) bool
}

func newRegistry(t testing.TB) *fakeRegistry {
	f := &fakeRegistry{blobs: map[string][]byte{}, types: map[string]string{}, tags: map[string]string{}, gets: map[string]int{}}
	f.Server = httptest.NewServer(f)
	t.Cleanup(f.Server.Close)
	return f
}

func (f *fakeRegistry) host() string { return strings.TrimPrefix(f.URL, "http://") }

func (f *fakeRegistry) count(prefix string) (n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for k, c := range f.gets {
		if strings.Contains(k, prefix) {
			n += c
		}
	}
	return n
}

func (f *fakeRegistry) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	before := f.before
	f.gets[r.Method+" "+r.URL.Path]++
	f.mu.Unlock()
	if before != nil && before(w, r) {
		return
	}
	if r.URL.Path == "/v2/" {
		return
	}
	kind := "/manifests/"
	repo, object, ok := strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), kind)
	if !ok {
		kind = "/blobs/"
		repo, object, _ = strings.Cut(strings.TrimPrefix(r.URL.Path, "/v2/"), kind)
	}
	f.mu.Lock()
	d := object
	if t := f.tags[repo+":"+object]; t != "" {
		d = t
	}
	content, ok := f.blobs[d]
	mediaType := f.types[d]
	f.mu.Unlock()
	if !ok || (mediaType == "") == (kind == "/manifests/") {
		http.Error(w, `{"errors":[{"code":"MANIFEST_UNKNOWN"}]}`, http.StatusNotFound)
		return
	}
	if mediaType != "" {
		w.Header().Set("Content-Type", mediaType)
	}
	w.Header().Set("Docker-Content-Digest", d)
	http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(content))
}

func (f *fakeRegistry) blob(content []byte, mediaType string) ocispec.Descriptor {
	d := digest.FromBytes(content)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.blobs[d.String()] = content
	return ocispec.Descriptor{Digest: d, Size: int64(len(content)), MediaType: mediaType}
}

func (f *fakeRegistry) manifest(v any, mediaType string) ocispec.Descriptor {
	raw, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	d := f.blob(raw, mediaType)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.types[d.Digest.String()] = mediaType
	return d
}

func (f *fakeRegistry) tag(name string, d ocispec.Descriptor) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.tags[name] = d.Digest.String()
}

// file is one tar entry; content makes a regular file unless Typeflag says otherwise.
type file struct {
	tar.Header
	content string
}

func reg(name, content string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644, ModTime: time.Unix(1e9, 0)}, content}
}

func dir(name string) file {
	return file{tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755, ModTime: time.Unix(1e9, 0)}, ""}
}

func tarOf(files ...file) []byte {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, f := range files {
		f.Size = int64(len(f.content))
		if err := w.WriteHeader(&f.Header); err != nil {
			panic(fmt.Errorf("%s: %w", f.Name, err))
		}
		if _, err := w.Write([]byte(f.content)); err != nil {
			panic(err)
		}
	}
	w.Close()
	return b.Bytes()
}

func gz(raw []byte) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	w.Write(raw)
	w.Close()
	return b.Bytes()
}

// image uploads an image of tar layers (bottom first) and tags it.
func (f *fakeRegistry) image(name string, config map[string]any, layers ...[]byte) ocispec.Descriptor {
	var descs []ocispec.Descriptor
	var diffs []digest.Digest
	for _, l := range layers {
		descs = append(descs, f.blob(gz(l), ocispec.MediaTypeImageLayerGzip))
		diffs = append(diffs, digest.FromBytes(l))
	}
	d := f.assemble(config, diffs, descs)
	if name != "" {
		f.tag(name, d)
	}
	return d
}

func (f *fakeRegistry) assemble(config map[string]any, diffs []digest.Digest, layers []ocispec.Descriptor) ocispec.Descriptor {
	c, _ := json.Marshal(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": config, "rootfs": map[string]any{"type": "layers", "diff_ids": diffs}})
	return f.manifest(ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: f.blob(c, ocispec.MediaTypeImageConfig), Layers: layers}, ocispec.MediaTypeImageManifest)
}
