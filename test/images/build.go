package main

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
	dockerGzip     = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerTar      = "application/vnd.docker.image.rootfs.diff.tar"
)

// builder writes the blobs of a set.
type builder struct {
	dir    string
	refs   map[string]v1.Descriptor
	layers map[string]layer // by media type and digest of the plain archive
}

func (b *builder) build(tmp string) error {
	if err := os.MkdirAll(b.dir, 0o755); err != nil {
		return err
	}
	p, err := gather(tmp)
	if err != nil {
		return err
	}
	for _, img := range recipes(p) {
		if err := b.image(img); err != nil {
			return fmt.Errorf("build %s: %w", img.refs[0], err)
		}
	}
	raw, err := json.MarshalIndent(b.refs, "", " ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(b.dir, "refs.json"), raw, 0o644)
}

func (b *builder) image(img image) error {
	m := v1.Manifest{Versioned: versioned(), MediaType: v1.MediaTypeImageManifest}
	cfg := v1.Image{Platform: v1.Platform{OS: "linux", Architecture: runtime.GOARCH}, Config: img.config, RootFS: v1.RootFS{Type: "layers"}}
	created := time.Unix(1700000000, 0).UTC()
	cfg.Created = &created
	for i, files := range img.layers {
		mediaType, c := layerType(img.wrap, i)
		l, err := b.layer(files, mediaType, c)
		if err != nil {
			return err
		}
		d, err := b.put(mediaType, l.blob)
		if err != nil {
			return err
		}
		m.Layers = append(m.Layers, d)
		cfg.RootFS.DiffIDs = append(cfg.RootFS.DiffIDs, l.diff)
		cfg.History = append(cfg.History, v1.History{Created: &created, CreatedBy: "berth test images"})
	}
	configType := v1.MediaTypeImageConfig
	if img.wrap == dockerPlain || img.wrap == dockerList {
		m.MediaType, configType = dockerManifest, dockerConfig
	}
	var err error
	if m.Config, err = b.putJSON(configType, cfg); err != nil {
		return err
	}
	top, err := b.putJSON(m.MediaType, m)
	if err != nil {
		return err
	}
	if img.wrap == dockerList || img.wrap == ociIndex {
		if top, err = b.index(img.wrap, top); err != nil {
			return err
		}
	}
	for _, ref := range img.refs {
		b.refs[ref] = top
	}
	return nil
}

// layerType tells how layer i of an image is stored.
func layerType(w wrapping, i int) (string, compression) {
	switch w {
	case ociZstd:
		return v1.MediaTypeImageLayerZstd, zstded
	case ociIndex:
		return []string{v1.MediaTypeImageLayerGzip, v1.MediaTypeImageLayerZstd, v1.MediaTypeImageLayer}[i%3], []compression{gzipped, zstded, plain}[i%3]
	case ociMixedTypes:
		return []string{dockerGzip, dockerTar}[i%2], []compression{gzipped, plain}[i%2]
	}
	return dockerGzip, gzipped
}

// index lists platforms that are not there before and after the one that is.
func (b *builder) index(w wrapping, m v1.Descriptor) (v1.Descriptor, error) {
	m.Platform = &v1.Platform{OS: "linux", Architecture: runtime.GOARCH}
	ix := v1.Index{Versioned: versioned(), MediaType: v1.MediaTypeImageIndex}
	if w == dockerList {
		ix.MediaType = dockerIndex
	}
	for i, p := range absent() {
		d := m
		d.Platform = &p
		d.Digest = digest.FromString(fmt.Sprint("absent", i))
		ix.Manifests = append(ix.Manifests, d)
	}
	ix.Manifests = slices.Insert(ix.Manifests, 1, m)
	return b.putJSON(ix.MediaType, ix)
}

func (b *builder) layer(files []file, mediaType string, c compression) (layer, error) {
	archive, err := pack(files)
	if err != nil {
		return layer{}, err
	}
	diff := digest.FromBytes(archive)
	key := mediaType + diff.String()
	if l, ok := b.layers[key]; ok {
		return l, nil
	}
	blob, err := compress(archive, c)
	if err != nil {
		return layer{}, err
	}
	b.layers[key] = layer{blob: blob, mediaType: mediaType, diff: diff}
	return b.layers[key], nil
}

func (b *builder) putJSON(mediaType string, v any) (v1.Descriptor, error) {
	raw, err := json.Marshal(v)
	if err != nil {
		return v1.Descriptor{}, err
	}
	return b.put(mediaType, raw)
}

func (b *builder) put(mediaType string, raw []byte) (v1.Descriptor, error) {
	d := digest.FromBytes(raw)
	return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(raw))}, os.WriteFile(filepath.Join(b.dir, d.Encoded()), raw, 0o644)
}
