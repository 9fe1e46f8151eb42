package image

import (
	"fmt"
	"io/fs"
	"strings"

	"github.com/distribution/reference"
	"github.com/opencontainers/go-digest"
)

// ref is a parsed reference, normalised: a short name is docker.io/library's, a missing tag is latest.
type ref struct {
	repo   string // host/path
	tag    string // "" with a digest: the digest wins
	digest string
}

// parseRef reads name, name:tag, name@digest and name:tag@digest.
func parseRef(s string) (ref, error) {
	named, err := reference.ParseDockerRef(s)
	if err != nil {
		return ref{}, fmt.Errorf("image reference %q: %w: %w", s, fs.ErrInvalid, err)
	}
	r := ref{repo: named.Name()}
	if d, ok := named.(reference.Digested); ok {
		r.digest = d.Digest().String()
	} else if t, ok := named.(reference.Tagged); ok {
		r.tag = t.Tag()
	}
	return r, nil
}

// String is the full name.
func (r ref) String() string {
	if r.digest != "" {
		return r.repo + "@" + r.digest
	}
	return r.repo + ":" + r.tag
}

// resolve finds the image a string means: a name if there is one, else an id or a prefix of one.
func (v *view) resolve(s string) (*record, error) {
	if s == "" {
		return nil, fmt.Errorf("empty image reference: %w", fs.ErrInvalid)
	}
	if d, err := digest.Parse(s); err == nil {
		if r := v.byID[d.String()]; r != nil {
			return r, nil
		}
		return nil, fmt.Errorf("image %s: %w", s, fs.ErrNotExist)
	}
	parsed, err := parseRef(s)
	if err == nil {
		if r := v.byID[v.names[parsed.String()]]; r != nil {
			return r, nil
		}
	}
	prefix := strings.TrimPrefix(s, "sha256:")
	if !isHex(prefix) {
		if err != nil {
			return nil, err
		}
		return nil, fmt.Errorf("image %s: %w", s, fs.ErrNotExist)
	}
	return v.byPrefix(prefix)
}

// byPrefix finds the one image whose id starts so.
func (v *view) byPrefix(prefix string) (*record, error) {
	var found *record
	for id, r := range v.byID {
		_, hex, _ := strings.Cut(id, ":")
		if !strings.HasPrefix(hex, prefix) {
			continue
		}
		if found != nil {
			return nil, fmt.Errorf("image id %s: more than one begins so: %w", prefix, fs.ErrInvalid)
		}
		found = r
	}
	if found == nil {
		return nil, fmt.Errorf("image %s: %w", prefix, fs.ErrNotExist)
	}
	return found, nil
}

func isHex(s string) bool {
	return s != "" && strings.Trim(s, "0123456789abcdef") == ""
}
