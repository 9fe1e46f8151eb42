package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// given is an image whose layers somebody else has made: archives from bottom to top.
type given struct {
	Refs   []string
	Layers []string
	Config v1.ImageConfig
}

// add makes a set of its own in dir from a file that lists images; serve --also offers it beside ours.
func add(dir, file string) error {
	raw, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var list []given
	if err := json.Unmarshal(raw, &list); err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	b := builder{dir: dir, refs: map[string]v1.Descriptor{}}
	for _, g := range list {
		if err := b.given(g); err != nil {
			return err
		}
	}
	if raw, err = json.MarshalIndent(b.refs, "", " "); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "refs.json"), raw, 0o644)
}

func (b *builder) given(g given) error {
	m := v1.Manifest{Versioned: versioned(), MediaType: v1.MediaTypeImageManifest}
	cfg := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: g.Config, RootFS: v1.RootFS{Type: "layers"}}
	for _, name := range g.Layers {
		archive, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		d, err := b.put(v1.MediaTypeImageLayer, archive)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, d.Digest)
	}
	var err error
	if m.Config, err = b.putJSON(v1.MediaTypeImageConfig, cfg); err != nil {
		return err
	}
	top, err := b.putJSON(m.MediaType, m)
	if err != nil {
		return err
	}
	for _, ref := range g.Refs {
		b.refs[ref] = top
	}
	return nil
}

// join offers the set in dir as well.
func (s *store) join(dir string) error {
	raw, err := os.ReadFile(filepath.Join(dir, "refs.json"))
	if err != nil {
		return err
	}
	s.also = dir
	return json.Unmarshal(raw, &s.Refs)
}

// open finds a blob in either set.
func (s *store) open(d digest.Digest) (*os.File, error) {
	f, err := os.Open(filepath.Join(s.dir, d.Encoded()))
	if err != nil && s.also != "" {
		return os.Open(filepath.Join(s.also, d.Encoded()))
	}
	return f, err
}
