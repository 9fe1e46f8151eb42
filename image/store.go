package image

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/berth-runtime/berth/image/layer"
)

// Options configure a Store. Root and Unpack are needed; zero values of the others mean the defaults.
type Options struct {
	// Root is the directory that gets images/ and layers/. One store at a time uses it.
	Root string
	// RegistryDir holds HOST/hosts.toml files in containerd's layout; read at each pull.
	RegistryDir string
	// Unpack is the program, with leading arguments, whose body is layer.UnpackMain.
	Unpack []string
	// Parallel is how many layers of one image are pulled at once; default 3.
	Parallel int
	// ProgressTimeout ends a pull that has not moved for so long; default 5 minutes.
	ProgressTimeout time.Duration
	// Pinned are globs (path.Match) over normalised names; images so named are reported as pinned.
	Pinned []string
	// Limits bound each layer.
	Limits layer.Limits
}

// ErrRegistryUnavailable is in errors of Pull when the registry can't be reached or does not serve. Its text is the prefix kubelet
// looks for (cri-api, pkg/errors), and it comes first in such an error's text.
var ErrRegistryUnavailable = errors.New("RegistryUnavailable")

// Store keeps images. Its methods may be called from any goroutine.
type Store struct {
	opts   Options
	dir    recordDir
	layers *layers
	now    func() time.Time

	mu   sync.Mutex // held for changes of records
	view atomic.Pointer[view]

	warnings []error
	serial   atomic.Uint64 // of users of layers
}

// view is an immutable snapshot of all images.
type view struct {
	byID  map[string]*record
	names map[string]string // full reference -> id
	list  []Image           // sorted by id
}

// Open reads the store in opts.Root, making it if need be. What an earlier process left half-made is thrown away; damaged
// records are removed and named in Warnings.
func Open(ctx context.Context, opts Options) (*Store, error) {
	if opts.Parallel <= 0 {
		opts.Parallel = 3
	}
	if opts.ProgressTimeout <= 0 {
		opts.ProgressTimeout = 5 * time.Minute
	}
	root, err := filepath.Abs(opts.Root)
	if err != nil || opts.Root == "" {
		return nil, fmt.Errorf("image store root %q: %w", opts.Root, errors.Join(fs.ErrInvalid, err))
	}
	opts.Root = root
	s := &Store{opts: opts, dir: recordDir(filepath.Join(root, "images")), now: time.Now}
	if err := os.MkdirAll(string(s.dir), 0o700); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	if s.layers, s.warnings, err = openLayers(filepath.Join(root, "layers")); err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	records, warnings, err := s.loadRecords(ctx)
	if err != nil {
		return nil, fmt.Errorf("image store: %w", err)
	}
	s.warnings = append(s.warnings, warnings...)
	for _, r := range records {
		s.layers.use(r.ID, r.keys())
	}
	s.publish(records)
	return s, nil
}

// Warnings are what Open found damaged and set aside.
func (s *Store) Warnings() []error { return s.warnings }

// Close waits for removals under way. Nothing depends on it.
func (s *Store) Close() { s.layers.wait() }

// publish makes a new snapshot current. The caller holds mu or is alone.
func (s *Store) publish(records []*record) {
	v := &view{byID: map[string]*record{}, names: map[string]string{}}
	for _, r := range records {
		v.byID[r.ID] = r
		for _, n := range slices.Concat(r.Tags, r.Digests) {
			v.names[n] = r.ID
		}
		v.list = append(v.list, r.image)
	}
	slices.SortFunc(v.list, func(a, b Image) int { return cmpString(a.ID, b.ID) })
	s.view.Store(v)
}

func cmpString(a, b string) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

// records returns the current records, to be changed by copy.
func (s *Store) records() []*record {
	v := s.view.Load()
	out := make([]*record, 0, len(v.byID))
	for _, r := range v.byID {
		out = append(out, r)
	}
	return out
}

// List returns all images, sorted by id. The slice is the caller's, what it points to is not.
func (s *Store) List() []Image { return slices.Clone(s.view.Load().list) }

// Resolve finds an image by id, unique id prefix, name, name:tag, name@digest or name:tag@digest (the digest decides). None is
// fs.ErrNotExist; a malformed reference or a prefix of several ids is fs.ErrInvalid.
func (s *Store) Resolve(ref string) (Image, error) {
	r, err := s.view.Load().resolve(ref)
	if err != nil {
		return Image{}, err
	}
	return r.image, nil
}

// Remove removes a whole image, whichever of its references is given: it is gone from List and Resolve when Remove returns. Layers no other
// image has and nobody holds are freed in the background. A missing image is success.
func (s *Store) Remove(ctx context.Context, ref string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	r, err := s.view.Load().resolve(ref)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.Remove(s.dir.path(r.ID)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove image %s: %w", r.ID, err)
	}
	s.publish(slices.DeleteFunc(s.records(), func(x *record) bool { return x.ID == r.ID }))
	return s.layers.unuse(r.ID)
}

// Hold resolves an image and keeps its layers for owner until Release, also after Remove. An owner may hold several images. Hold does not
// wait for a pull that is writing its record.
func (s *Store) Hold(ref, owner string) (Image, error) {
	guard := "hold " + strconv.FormatUint(s.serial.Add(1), 10)
	for {
		r, err := s.view.Load().resolve(ref)
		if err != nil {
			return Image{}, err
		}
		// Remove publishes first and drops its references then: an image that is still there now had not lost its layers when the
		// guard took hold of them.
		s.layers.use(guard, r.keys())
		if s.view.Load().byID[r.ID] == r {
			s.layers.hold(owner, r.keys())
			return r.image, s.layers.unuse(guard)
		}
		if err := s.layers.unuse(guard); err != nil {
			return Image{}, err
		}
	}
}

// Release drops all an owner holds.
func (s *Store) Release(owner string) error { return s.layers.release(owner) }

// Keep says, after a start, that owner still uses layer directories it once got from Image.Layers.
func (s *Store) Keep(owner string, dirs []string) { s.layers.keep(owner, dirs) }

// Collect frees what nobody uses. From the first call on this happens by itself.
func (s *Store) Collect(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return s.layers.collect()
}

// Usage is what the store takes on disk (CRI FilesystemUsage).
type Usage struct {
	Bytes, Inodes uint64
	Mountpoint    string // a directory on the file system of the store
	Timestamp     time.Time
}

// Usage sums what was counted when layers were unpacked; it reads nothing and waits for nobody.
func (s *Store) Usage() (Usage, error) {
	u := Usage{Bytes: s.layers.bytes.Load(), Inodes: s.layers.inodes.Load(), Mountpoint: s.opts.Root, Timestamp: s.now()}
	for _, i := range s.view.Load().list {
		u.Bytes += uint64(len(i.ConfigJSON))
		u.Inodes++
	}
	return u, nil
}
