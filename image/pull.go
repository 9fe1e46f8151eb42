package image

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"

	"github.com/berth-runtime/berth/image/registry"
)

// Auth is a credential for a registry (CRI AuthConfig).
type Auth = registry.Auth

// PullRequest asks for one image.
type PullRequest struct {
	Ref  string // any form Resolve takes but an id
	Auth Auth
}

// Pull makes an image present and gives its reference to it. The registry is always asked what the reference means, with the credential
// of this request, even when the image is there; layers that are there are not fetched again. Pulls of the same layer at the same time
// share the work. When ctx ends, Pull returns at once with the context's error; work nobody else waits for stops.
//
// A malformed reference or document is fs.ErrInvalid, an image the registry does not have fs.ErrNotExist, a credential that does not
// do fs.ErrPermission, a registry that can't be reached ErrRegistryUnavailable.
func (s *Store) Pull(ctx context.Context, req PullRequest) (Image, error) {
	r, err := parseRef(req.Ref)
	if err != nil {
		return Image{}, err
	}
	type answer struct {
		img Image
		err error
	}
	done := make(chan answer, 1)
	// ends when the pull is done or, soon after the context's end, given up
	go func() {
		img, err := s.pull(ctx, r, req.Auth)
		done <- answer{img, err}
	}()
	var a answer
	select {
	case a = <-done:
	case <-ctx.Done():
	}
	switch {
	case a.err == nil && a.img.ID != "":
		return a.img, nil
	case ctx.Err() != nil:
		return Image{}, fmt.Errorf("pull %s: %w", r, ctx.Err())
	case errors.Is(a.err, registry.ErrUnavailable):
		return Image{}, fmt.Errorf("%w: pull %s: %w", ErrRegistryUnavailable, r, a.err)
	}
	return Image{}, fmt.Errorf("pull %s: %w", r, a.err)
}

// pull is Pull without its haste.
func (s *Store) pull(ctx context.Context, r ref, auth Auth) (Image, error) {
	repo, err := registry.Open(ctx, r.String(), s.opts.RegistryDir, auth)
	if err != nil {
		return Image{}, err
	}
	defer repo.Close()
	desc, err := repo.Resolve(ctx)
	if err != nil {
		return Image{}, err
	}
	// The registry has just said that this credential may read this digest here. If it is the digest of an image that
	// is present, there is nothing more to learn.
	pinned := ref{repo: r.repo, digest: desc.Digest.String()}
	if known := s.view.Load().names[pinned.String()]; known != "" {
		if img, err := s.rename(known, r, pinned); err == nil {
			return img, nil
		}
	}
	img, err := repo.Image(ctx, desc)
	if err != nil {
		return Image{}, err
	}
	user := "pull " + strconv.FormatUint(s.serial.Add(1), 10)
	err = s.pullLayers(ctx, user, repo, img.Layers)
	if err == nil {
		err = ctx.Err()
	}
	var out Image
	if err == nil {
		out, err = s.commit(img, user, r, pinned)
	}
	return out, errors.Join(err, s.layers.unuse(user))
}

// pullLayers makes all layers present, Options.Parallel at a time. The first error stops the rest.
func (s *Store) pullLayers(ctx context.Context, user string, repo *registry.Repository, all []registry.Layer) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	places := make(chan struct{}, s.opts.Parallel)
	done := make(chan error, len(all))
	for _, l := range all {
		// ends when the layer is present or the context ends
		go func() {
			select {
			case places <- struct{}{}:
				defer func() { <-places }()
			case <-ctx.Done():
				done <- ctx.Err()
				return
			}
			err := s.layers.ensure(ctx, user, key(l.DiffID.String()), func(ctx context.Context, dir string) (*slot, error) {
				return fetcher{&s.opts, repo, l, dir}.fetch(ctx)
			})
			if err != nil {
				err = fmt.Errorf("layer %s: %w", l.Blob.Digest, err)
				cancel(err)
			}
			done <- err
		}()
	}
	for range all {
		<-done
	}
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return nil
}

// commit makes the pulled layers durable, writes the image's record and moves the name to it.
func (s *Store) commit(img registry.Image, user string, r, pinned ref) (Image, error) {
	rec := &record{ID: img.ID.String(), Config: img.Config, Size: img.Size}
	for _, l := range img.Layers {
		rec.DiffIDs = append(rec.DiffIDs, l.DiffID.String())
	}
	if err := s.layers.commit(rec.keys()); err != nil {
		return Image{}, fmt.Errorf("commit layers: %w", err)
	}
	// Now the layers stay where they are, and can be looked into.
	if err := s.fix(rec, user); err != nil {
		return Image{}, fmt.Errorf("correct implied directories: %w", err)
	}
	if err := s.layers.commit(rec.keys()); err != nil { // of a fix layer, if there is a new one
		return Image{}, fmt.Errorf("commit layers: %w", err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if old := s.view.Load().byID[rec.ID]; old != nil {
		rec.Tags, rec.Digests, rec.image.files = old.Tags, old.Digests, old.image.files
	}
	s.layers.use(rec.ID, rec.keys())
	out, err := s.adopt(rec, r, pinned)
	if err != nil && s.view.Load().byID[rec.ID] == nil {
		err = errors.Join(err, s.layers.unuse(rec.ID))
	}
	return out, err
}

// rename gives a present image another name.
func (s *Store) rename(id string, r, pinned ref) (Image, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	old := s.view.Load().byID[id]
	if old == nil {
		return Image{}, errors.New("image was removed")
	}
	if slices.Contains(old.image.RepoDigests, pinned.String()) && (r.tag == "" || slices.Contains(old.Tags, r.String())) {
		return old.image, nil
	}
	rec := *old
	return s.adopt(&rec, r, pinned)
}

// adopt names rec and publishes it; an image that had the tag keeps its digests. mu is held.
func (s *Store) adopt(rec *record, r, pinned ref) (Image, error) {
	rec.Pulled = max(s.now().UnixNano(), rec.Pulled+1)
	rec.Digests = slices.Insert(slices.DeleteFunc(slices.Clone(rec.Digests), func(d string) bool { return d == pinned.String() }), 0, pinned.String())
	if r.tag != "" && !slices.Contains(rec.Tags, r.String()) {
		rec.Tags = append(slices.Clone(rec.Tags), r.String())
	}
	if err := s.complete(rec); err != nil {
		return Image{}, err
	}
	if err := s.dir.write(rec); err != nil {
		return Image{}, fmt.Errorf("write record: %w", err)
	}
	all := []*record{rec}
	for _, x := range s.records() {
		if x.ID == rec.ID {
			continue
		}
		y, err := s.without(x, r, pinned)
		if err != nil {
			return Image{}, err
		}
		all = append(all, y)
	}
	s.publish(all)
	return rec.image, nil
}

// without takes from a record the names that now mean another image.
func (s *Store) without(x *record, names ...ref) (*record, error) {
	gone := func(n string) bool {
		return slices.ContainsFunc(names, func(r ref) bool { return r.String() == n })
	}
	if !slices.ContainsFunc(x.Tags, gone) && !slices.ContainsFunc(x.Digests, gone) {
		return x, nil
	}
	y := *x
	y.Tags = slices.DeleteFunc(slices.Clone(x.Tags), gone)
	y.Digests = slices.DeleteFunc(slices.Clone(x.Digests), gone)
	if err := s.complete(&y); err != nil {
		return nil, err
	}
	return &y, s.dir.write(&y)
}
