package image

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/layer"
)

// layers is the set of unpacked layers. mu is held for changes of the maps and for renames, never while unpacking or syncing.
type layers struct {
	dir string

	mu          sync.Mutex
	all         map[string]*slot
	users       map[string][]string // image id, pull or owner -> keys
	jobs        map[string]*job
	collectable bool // set by the first Collect
	serial      int

	bytes, inodes atomic.Uint64 // sums over all, for readers that must not wait for mu

	commits  sync.Mutex // one syncfs at a time
	removals sync.WaitGroup
}

// slot is one unpacked layer.
type slot struct {
	key  string
	at   string // directory that has fs/ and layer.json: in place, or in staging until an image with it is committed
	res  layer.Result
	refs int
	bad  bool // its metadata is damaged: no image gets it; who mounted it keeps it
}

func (l *layers) staging() string        { return filepath.Join(l.dir, ".staging") }
func (l *layers) trash() string          { return filepath.Join(l.dir, ".trash") }
func (l *layers) home(key string) string { return filepath.Join(l.dir, key) }
func (s *slot) fs() string               { return filepath.Join(s.at, "fs") }

// openLayers reads what is there.
func openLayers(dir string) (*layers, []error, error) {
	l := &layers{dir: dir, all: map[string]*slot{}, users: map[string][]string{}, jobs: map[string]*job{}}
	for _, d := range [...]string{dir, l.trash()} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return nil, nil, err
		}
	}
	if err := os.Rename(l.staging(), l.trashName()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	if err := os.Mkdir(l.staging(), 0o700); err != nil {
		return nil, nil, err
	}
	l.sweep()
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	var warnings []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue
		}
		s := &slot{key: e.Name(), at: l.home(e.Name())}
		if err := s.load(); err != nil {
			s.bad = true
			warnings = append(warnings, fmt.Errorf("layer %s damaged: %w", s.key, err))
		}
		l.put(s)
	}
	return l, warnings, nil
}

// meta is layer.json.
type meta struct {
	Key string `json:"key"`
	layer.Result
}

func (s *slot) load() error {
	raw, err := os.ReadFile(filepath.Join(s.at, "layer.json"))
	if err != nil {
		return err
	}
	var m meta
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	if m.Key != s.key {
		return fmt.Errorf("is of layer %q: %w", m.Key, fs.ErrInvalid)
	}
	s.res = m.Result
	_, err = os.Stat(s.fs())
	return err
}

// save writes layer.json; the image's sync makes it durable.
func (s *slot) save() error {
	raw, err := json.Marshal(meta{s.key, s.res})
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(s.at, "layer.json"), raw, 0o600)
}

func (l *layers) trashName() string {
	l.serial++
	return filepath.Join(l.trash(), strconv.FormatInt(time.Now().UnixNano(), 36)+"-"+strconv.Itoa(l.serial))
}

// sweep empties the trash in the background.
func (l *layers) sweep() {
	entries, err := os.ReadDir(l.trash())
	if err != nil || len(entries) == 0 {
		return
	}
	l.removals.Add(1)
	// ends when what was in the trash is removed
	go func() {
		defer l.removals.Done()
		for _, e := range entries {
			_ = os.RemoveAll(filepath.Join(l.trash(), e.Name())) // what stays is tried again at the next sweep
		}
	}()
}

func (l *layers) wait() { l.removals.Wait() }

// use adds references of a user: an image, a pull or an owner. Unknown keys are ignored.
func (l *layers) use(user string, keys []string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.refer(user, keys)
}

// refer is use with mu held.
func (l *layers) refer(user string, keys []string) {
	for _, k := range keys {
		if s := l.all[k]; s != nil && !slices.Contains(l.users[user], k) {
			s.refs++
			l.users[user] = append(l.users[user], k)
		}
	}
}

// unuse drops all references of a user and frees what nobody else has.
func (l *layers) unuse(user string) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, k := range l.users[user] {
		if s := l.all[k]; s != nil {
			s.refs--
		}
	}
	keys := l.users[user]
	delete(l.users, user)
	return l.free(keys)
}

func ownerKey(owner string) string { return "owner " + owner }

func (l *layers) hold(owner string, keys []string) { l.use(ownerKey(owner), keys) }
func (l *layers) release(owner string) error       { return l.unuse(ownerKey(owner)) }

func (l *layers) keep(owner string, dirs []string) {
	var keys []string
	for _, d := range dirs {
		keys = append(keys, filepath.Base(filepath.Dir(filepath.Clean(d))))
	}
	l.use(ownerKey(owner), keys)
}

// collect frees every layer without a user.
func (l *layers) collect() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.collectable = true
	keys := make([]string, 0, len(l.all))
	for k := range l.all {
		keys = append(keys, k)
	}
	return l.free(keys)
}

// free moves unused layers to the trash. mu is held.
func (l *layers) free(keys []string) error {
	var errs []error
	for _, k := range keys {
		s := l.all[k]
		if s == nil || s.refs > 0 || !l.collectable && s.at == l.home(k) {
			continue
		}
		if err := os.Rename(s.at, l.trashName()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, fmt.Errorf("free layer %s: %w", k, err))
			continue
		}
		l.drop(s)
	}
	l.sweep()
	return errors.Join(errs...)
}

// commit makes the layers durable and puts them in their place.
func (l *layers) commit(keys []string) error {
	l.commits.Lock()
	defer l.commits.Unlock()
	if !l.staged(keys) {
		return nil
	}
	d, err := os.Open(l.dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := unix.Syncfs(int(d.Fd())); err != nil {
		return fmt.Errorf("sync %s: %w", l.dir, err)
	}
	l.mu.Lock()
	for _, k := range keys {
		s := l.all[k]
		if s == nil || s.at == l.home(k) {
			continue
		}
		// A damaged predecessor may still be mounted by somebody: it goes, its open files stay.
		if err = os.Rename(l.home(k), l.trashName()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			break
		}
		if err = os.Rename(s.at, l.home(k)); err != nil {
			break
		}
		s.at = l.home(k)
	}
	l.mu.Unlock()
	return errors.Join(err, d.Sync())
}

func (l *layers) staged(keys []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.ContainsFunc(keys, func(k string) bool { return l.all[k] != nil && l.all[k].at != l.home(k) })
}

// stack gives the lower directories of an image, top first, where they are once committed. A layer that occurs twice counts at its topmost place,
// where it covers all the lower one did; the kernel refuses it twice. One that has nothing in it is left out. Below a layer that hides
// everything nothing is looked for: the kernel does not ask the root directory whether it is opaque.
func (l *layers) stack(r *record) ([]string, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	keys := []string{}
	if r.Fix != "" {
		keys = append(keys, r.Fix)
	}
	for _, d := range slices.Backward(r.DiffIDs) {
		keys = append(keys, key(d))
	}
	var dirs []string
	seen := map[string]bool{}
	for _, k := range keys {
		s := l.all[k]
		if s == nil || s.bad {
			return nil, fmt.Errorf("layer %s: %w", k, fs.ErrNotExist)
		}
		if seen[k] || s.empty() {
			continue
		}
		seen[k] = true
		dirs = append(dirs, filepath.Join(l.home(k), "fs"))
		if slices.Contains(s.res.Opaque, ".") {
			break
		}
	}
	return dirs, nil
}

// empty says that the layer changes nothing: a root directory nobody described.
func (s *slot) empty() bool {
	return s.res.Inodes <= 1 && slices.Equal(s.res.Implied, []string{"."}) && len(s.res.Opaque) == 0
}

// put adds a layer, in place of one of the same key. mu is held, or the caller is alone.
func (l *layers) put(s *slot) {
	if old := l.all[s.key]; old != nil {
		l.drop(old)
		s.refs = old.refs // a damaged one, still held by somebody
	}
	l.all[s.key] = s
	l.bytes.Add(s.res.Bytes)
	l.inodes.Add(s.res.Inodes)
}

// drop forgets a layer. mu is held.
func (l *layers) drop(s *slot) {
	delete(l.all, s.key)
	l.bytes.Add(-s.res.Bytes)
	l.inodes.Add(-s.res.Inodes)
}
