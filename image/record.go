package image

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
)

// record is one image on disk.
type record struct {
	ID     string `json:"id"`
	Config []byte `json:"config"` // base64 in the file: its digest is ID
	// Tags are "repo:tag". Digests are "repo@digest" as pulled, the newest of each repository first.
	Tags    []string `json:"tags"`
	Digests []string `json:"digests"`
	// DiffIDs are the layers, bottom first, as the configuration has them. Fix names the synthetic top layer, if any.
	DiffIDs []string `json:"diff_ids"`
	Fix     string   `json:"fix,omitempty"`
	Size    int64    `json:"size"`
	// Pulled is when the record was last written, ns since the epoch: the later one has a tag that two records claim.
	Pulled int64 `json:"pulled"`

	image Image
}

// key is the directory name of a layer.
func key(diffID string) string { return strings.ReplaceAll(diffID, ":", "-") }

// keys lists the layers the record needs.
func (r *record) keys() []string {
	var out []string
	for _, d := range r.DiffIDs {
		out = append(out, key(d))
	}
	if r.Fix != "" {
		out = append(out, r.Fix)
	}
	slices.Sort(out)
	return slices.Compact(out)
}

// recordDir is the directory of records.
type recordDir string

func (d recordDir) path(id string) string { return filepath.Join(string(d), key(id)+".json") }

// write makes a record durable, then visible.
func (d recordDir) write(r *record) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	return writeDurably(d.path(r.ID), raw)
}

// complete fills in what is derived.
func (s *Store) complete(r *record) error {
	if have := digest.Digest(r.ID).Algorithm(); !have.Available() || have.FromBytes(r.Config).String() != r.ID {
		return fmt.Errorf("configuration is not %s: %w", r.ID, fs.ErrInvalid)
	}
	c, err := parseConfig(r.Config)
	if err != nil {
		return err
	}
	dirs, err := s.layers.stack(r)
	if err != nil {
		return err
	}
	files := r.image.files
	if files == nil {
		files = &fileCache{}
	}
	r.image = Image{ID: r.ID, RepoTags: slices.Sorted(slices.Values(r.Tags)), RepoDigests: newest(r.Digests), Size: uint64(max(r.Size, 1)),
		Pinned: r.matches(s.opts.Pinned), Layers: dirs, Config: c, ConfigJSON: r.Config, files: files}
	return nil
}

// newest keeps the first digest of each repository, sorted.
func newest(digests []string) []string {
	seen := map[string]bool{}
	var out []string
	for _, d := range digests {
		repo, _, _ := strings.Cut(d, "@")
		if !seen[repo] {
			seen[repo] = true
			out = append(out, d)
		}
	}
	slices.Sort(out)
	return out
}

// matches says whether one of the globs fits one of the names.
func (r *record) matches(globs []string) bool {
	for _, glob := range globs {
		for _, name := range slices.Concat(r.Tags, r.Digests, []string{r.ID}) {
			if ok, _ := path.Match(glob, name); ok {
				return true
			}
		}
	}
	return false
}

// loadRecords reads all records. One that is damaged, or lacks a layer, is removed.
func (s *Store) loadRecords(ctx context.Context) (good []*record, warnings []error, err error) {
	entries, err := os.ReadDir(string(s.dir))
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return nil, nil, err
		}
		name := filepath.Join(string(s.dir), e.Name())
		r, err := s.loadRecord(name)
		if err == nil && s.dir.path(r.ID) != name {
			err = fmt.Errorf("is of image %s: %w", r.ID, fs.ErrInvalid)
		}
		if err == nil {
			good = append(good, r)
			continue
		}
		if strings.HasSuffix(name, ".json") {
			warnings = append(warnings, fmt.Errorf("image record %s dropped: %w", e.Name(), err))
		}
		if err := os.RemoveAll(name); err != nil {
			warnings = append(warnings, err)
		}
	}
	return good, warnings, errors.Join(s.dedupe(good)...)
}

func (s *Store) loadRecord(name string) (*record, error) {
	raw, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	r := &record{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, err
	}
	return r, s.complete(r)
}

// dedupe leaves a tag to the record written last: a crash may come between the new owner's record and the old one's.
func (s *Store) dedupe(records []*record) []error {
	slices.SortFunc(records, func(a, b *record) int { return int(min(max(b.Pulled-a.Pulled, -1), 1)) })
	taken := map[string]bool{}
	var errs []error
	for _, r := range records {
		before := len(r.Tags)
		r.Tags = slices.DeleteFunc(r.Tags, func(t string) bool { return taken[t] })
		for _, t := range r.Tags {
			taken[t] = true
		}
		if len(r.Tags) == before {
			continue
		}
		errs = append(errs, s.complete(r), s.dir.write(r))
	}
	return errs
}

// writeDurably replaces a file by a new one that is on disk before it is named.
func writeDurably(name string, content []byte) error {
	dir := filepath.Dir(name)
	f, err := os.CreateTemp(dir, ".tmp-")
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return errors.Join(err, os.Remove(f.Name()))
	}
	return syncDir(dir)
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
