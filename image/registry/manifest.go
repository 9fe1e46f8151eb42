package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Limits on what a registry may make us read before a layer is asked for. The distribution specification wants 4 MiB
// of manifest to be accepted.
const (
	maxManifest = 8 << 20
	maxConfig   = 16 << 20
	maxNesting  = 4
	maxLayers   = 500 // overlayfs stacks no more (OVL_MAX_STACK)
)

// Media types of Docker's image manifest version 2, schema 2.
const (
	dockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	dockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
	dockerConfig   = "application/vnd.docker.container.image.v1+json"
)

// Image is a chosen image, without its layers.
type Image struct {
	Manifest ocispec.Descriptor // of the platform's manifest
	Config   []byte             // verified
	ID       digest.Digest      // of Config
	Layers   []Layer            // bottom first
	Size     int64              // of manifest, config and layers as the registry has them
}

// Layer is one layer: the blob, and what it is when decompressed.
type Layer struct {
	Blob   ocispec.Descriptor
	DiffID digest.Digest
}

// Image reads what desc leads to on this machine's platform.
func (r *Repository) Image(ctx context.Context, desc ocispec.Descriptor) (Image, error) {
	return r.choose(ctx, desc, platforms.Default(), maxNesting)
}

// document is the union of a manifest and an index.
type document struct {
	SchemaVersion int                  `json:"schemaVersion"`
	MediaType     string               `json:"mediaType"`
	Config        *ocispec.Descriptor  `json:"config"`
	Layers        []ocispec.Descriptor `json:"layers"`
	Manifests     []ocispec.Descriptor `json:"manifests"`
}

var errNoPlatform = fmt.Errorf("no image for this platform: %w", fs.ErrNotExist)

func (r *Repository) choose(ctx context.Context, desc ocispec.Descriptor, match platforms.MatchComparer, depth int) (Image, error) {
	if strings.Contains(desc.MediaType, "docker.distribution.manifest.v1+") {
		return Image{}, fmt.Errorf("manifest %s: schema 1: %w", desc.Digest, errors.ErrUnsupported)
	}
	ask := desc
	if !isManifest(ask.MediaType) && !isIndex(ask.MediaType) {
		ask.MediaType = ocispec.MediaTypeImageManifest // "application/json" and the like: else the library asks for a blob
	}
	raw, err := r.small(ctx, ask, maxManifest)
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	doc, err := parse(raw, desc.MediaType)
	if err != nil {
		return Image{}, fmt.Errorf("manifest %s: %w", desc.Digest, err)
	}
	if doc.Manifests == nil {
		desc.Size = int64(len(raw))
		return r.image(ctx, desc, doc, match)
	}
	if depth == 0 {
		return Image{}, fmt.Errorf("index %s: nested more than %d deep: %w", desc.Digest, maxNesting, fs.ErrInvalid)
	}
	for _, m := range candidates(doc.Manifests, match) {
		img, err := r.choose(ctx, m, match, depth-1)
		if errors.Is(err, errNoPlatform) && isIndex(m.MediaType) || errors.Is(err, errNoPlatform) && m.Platform == nil {
			continue
		}
		return img, err
	}
	return Image{}, fmt.Errorf("index %s: %w (%s)", desc.Digest, errNoPlatform, platforms.DefaultString())
}

// candidates orders the entries of an index: those whose platform fits, best first; then nested indexes and entries that do
// not say. Entries for other platforms are not looked at.
func candidates(all []ocispec.Descriptor, match platforms.MatchComparer) []ocispec.Descriptor {
	var fit, open []ocispec.Descriptor
	for _, m := range all {
		switch {
		case m.Digest.Validate() != nil, m.Annotations["vnd.docker.reference.type"] != "", m.ArtifactType != "":
		case m.Platform == nil || m.Platform.OS == "" && isIndex(m.MediaType):
			open = append(open, m)
		case match.Match(*m.Platform):
			fit = append(fit, m)
		}
	}
	slices.SortStableFunc(fit, func(a, b ocispec.Descriptor) int {
		if match.Less(*a.Platform, *b.Platform) {
			return -1
		}
		if match.Less(*b.Platform, *a.Platform) {
			return 1
		}
		return 0
	})
	const enough = 32 // documents one index may make us read at each level
	return append(fit, open...)[:min(enough, len(fit)+len(open))]
}

func isManifest(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageManifest || mediaType == dockerManifest
}

func isIndex(mediaType string) bool {
	return mediaType == ocispec.MediaTypeImageIndex || mediaType == dockerIndex
}

// parse reads a manifest or index. One that could be read as either, or under two spellings of a key, or that contradicts
// the type it was announced with, is refused: two programs must not see two images behind one digest.
func parse(raw []byte, announced string) (document, error) {
	var keys map[string]json.RawMessage
	if err := json.Unmarshal(raw, &keys); err != nil {
		return document{}, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	if err := checkKeys(keys); err != nil {
		return document{}, err
	}
	var doc document
	if err := json.Unmarshal(raw, &doc); err != nil {
		return document{}, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	index := keys["manifests"] != nil
	if index && doc.Manifests == nil {
		doc.Manifests = []ocispec.Descriptor{}
	}
	if !index && doc.Config == nil {
		return document{}, fmt.Errorf("neither manifest nor index: %w", fs.ErrInvalid)
	}
	for _, t := range [...]string{doc.MediaType, announced} {
		if index && isManifest(t) || !index && isIndex(t) {
			return document{}, fmt.Errorf("index and manifest confused: announced as %s: %w", t, fs.ErrInvalid)
		}
	}
	return doc, nil
}

// checkKeys refuses what encoding/json, which does not mind case, and a stricter reader would read differently.
func checkKeys(keys map[string]json.RawMessage) error {
	for k := range keys {
		for _, known := range [...]string{"schemaVersion", "mediaType", "config", "layers", "manifests", "fsLayers"} {
			if k != known && strings.EqualFold(k, known) {
				return fmt.Errorf("ambiguous key %q: %w", k, fs.ErrInvalid)
			}
		}
	}
	if keys["fsLayers"] != nil {
		return fmt.Errorf("schema 1 manifest: %w", errors.ErrUnsupported)
	}
	if keys["manifests"] != nil && (keys["layers"] != nil || keys["config"] != nil) {
		return fmt.Errorf("both manifest and index: %w", fs.ErrInvalid)
	}
	return nil
}

// imageConfig is what pulling needs of an image configuration.
type imageConfig struct {
	OS           string   `json:"os"`
	Architecture string   `json:"architecture"`
	Variant      string   `json:"variant"`
	OSFeatures   []string `json:"os.features"`
	RootFS       struct {
		DiffIDs []digest.Digest `json:"diff_ids"`
	} `json:"rootfs"`
}

// image reads the configuration of a manifest and pairs layers with their diff ids.
func (r *Repository) image(ctx context.Context, desc ocispec.Descriptor, doc document, match platforms.MatchComparer) (Image, error) {
	switch t := doc.Config.MediaType; t {
	case ocispec.MediaTypeImageConfig, dockerConfig, "", "application/octet-stream":
	default:
		return Image{}, fmt.Errorf("manifest %s: configuration of type %s is no image's: %w", desc.Digest, t, errors.ErrUnsupported)
	}
	raw, err := r.small(ctx, *doc.Config, maxConfig)
	if err != nil {
		return Image{}, fmt.Errorf("configuration %s: %w", doc.Config.Digest, err)
	}
	var c imageConfig
	if err := json.Unmarshal(raw, &c); err != nil {
		return Image{}, fmt.Errorf("configuration %s: %w", doc.Config.Digest, err)
	}
	if c.OS != "" && c.Architecture != "" && !match.Match(ocispec.Platform{OS: c.OS, Architecture: c.Architecture, Variant: c.Variant}) {
		return Image{}, fmt.Errorf("manifest %s is for %s/%s: %w", desc.Digest, c.OS, c.Architecture, errNoPlatform)
	}
	if len(c.RootFS.DiffIDs) != len(doc.Layers) || len(doc.Layers) > maxLayers {
		return Image{}, fmt.Errorf("manifest %s: %d layers, %d diff ids, at most %d: %w", desc.Digest, len(doc.Layers), len(c.RootFS.DiffIDs), maxLayers, fs.ErrInvalid)
	}
	img := Image{Manifest: desc, Config: raw, ID: doc.Config.Digest, Size: desc.Size + int64(len(raw))}
	for i, l := range doc.Layers {
		l.URLs = nil // a foreign layer's address is the image author's word; the registry has the blob or it is not pulled
		if err := checkLayer(l, c.RootFS.DiffIDs[i]); err != nil {
			return Image{}, fmt.Errorf("manifest %s: layer %d: %w", desc.Digest, i, err)
		}
		img.Layers = append(img.Layers, Layer{Blob: l, DiffID: c.RootFS.DiffIDs[i]})
		img.Size += l.Size
	}
	return img, nil
}

func checkLayer(l ocispec.Descriptor, diffID digest.Digest) error {
	if err := errors.Join(l.Digest.Validate(), diffID.Validate()); err != nil {
		return fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	if l.Size < 0 {
		return fmt.Errorf("size %d: %w", l.Size, fs.ErrInvalid)
	}
	if strings.HasSuffix(l.MediaType, "+encrypted") {
		return fmt.Errorf("type %s: %w", l.MediaType, errors.ErrUnsupported)
	}
	return nil
}

// small reads a blob or manifest whole and checks its digest.
func (r *Repository) small(ctx context.Context, desc ocispec.Descriptor, limit int64) ([]byte, error) {
	if err := desc.Digest.Validate(); err != nil {
		return nil, fmt.Errorf("%w: %w", fs.ErrInvalid, err)
	}
	if desc.Size > limit {
		return nil, fmt.Errorf("%d bytes, at most %d: %w", desc.Size, limit, fs.ErrInvalid)
	}
	desc.URLs = nil
	rc, err := r.Blob(ctx, desc)
	if err != nil {
		return nil, err
	}
	defer rc.Close()
	b, err := io.ReadAll(io.LimitReader(rc, limit+1))
	if err != nil {
		return nil, classify(ctx, err)
	}
	if int64(len(b)) > limit {
		return nil, fmt.Errorf("more than %d bytes: %w", limit, fs.ErrInvalid)
	}
	if have := desc.Digest.Algorithm().FromBytes(b); have != desc.Digest {
		return nil, fmt.Errorf("content has digest %s: %w", have, fs.ErrInvalid)
	}
	return b, nil
}
