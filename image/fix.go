package image

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/layer"
	"github.com/berth-runtime/berth/image/overlay"
)

// A layer is unpacked without the layers below it. When its archive has "tmp/x" but no entry for "tmp", the directory is
// implied and made with mode 0755, owner root. In the merged tree the topmost directory's attributes count, so /tmp
// would lose mode 1777 that a lower layer gave it. (An unpacker that works on top of the lower layers copies them; but then a layer
// is another directory in each image.) The image therefore gets a synthetic top layer that has just those
// directories, with the attributes they should have. Most images need none: builders describe what they touch.

// attrs is what a directory in a fix layer looks like.
type attrs struct {
	Path   string            `json:"path"`
	Mode   uint32            `json:"mode"`
	UID    uint32            `json:"uid"`
	GID    uint32            `json:"gid"`
	Xattrs map[string][]byte `json:"xattrs,omitempty"`
}

// maxImplied bounds the work an image can ask for: an archive of nothing but implied directories under hundreds of layers.
const maxImplied = 1 << 17

// fix makes the synthetic top layer of an image, if it needs one, and a reference of user to it. An image without any layer content gets one too:
// there must be something to mount.
func (s *Store) fix(rec *record, user string) error {
	stack, err := s.layers.stackSlots(rec)
	if err != nil {
		return err
	}
	dirs, err := corrections(stack)
	if err != nil {
		return err
	}
	if len(dirs) == 0 && len(stack) > 0 {
		return nil
	}
	if len(dirs) == 0 {
		dirs = []attrs{{Path: ".", Mode: 0o755}}
	}
	raw, err := json.Marshal(dirs)
	if err != nil {
		return err
	}
	sum := sha256.Sum256(raw)
	rec.Fix = "fix-" + hex.EncodeToString(sum[:])
	return s.layers.ensure(context.Background(), user, rec.Fix, func(_ context.Context, dir string) (*slot, error) {
		sl := &slot{key: rec.Fix, at: dir, res: layer.Result{Bytes: uint64(len(dirs)) * 4096, Inodes: uint64(len(dirs))}}
		if err := build(sl.fs(), dirs); err != nil {
			return nil, err
		}
		return sl, sl.save()
	})
}

// stackSlots is stack with what is known of the layers.
func (l *layers) stackSlots(r *record) ([]*slot, error) {
	if _, err := l.stack(r); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	var out []*slot
	for _, d := range slices.Backward(r.DiffIDs) {
		s := l.all[key(d)]
		if s.empty() || slices.Contains(out, s) {
			continue
		}
		out = append(out, s)
		if slices.Contains(s.res.Opaque, ".") {
			break
		}
	}
	return out, nil
}

// corrections finds the directories that are wrong in the merged stack (top first), and all above them, sorted by path.
func corrections(stack []*slot) ([]attrs, error) {
	var layers []string
	total := 0
	candidates := map[string]bool{}
	for i, s := range stack {
		layers = append(layers, s.fs())
		if i == len(stack)-1 {
			break // nothing below knows better
		}
		for _, p := range s.res.Implied {
			candidates[p] = true
		}
		total += len(s.res.Implied)
	}
	if total > maxImplied {
		return nil, fmt.Errorf("layers imply %d directories, at most %d: %w", total, maxImplied, fs.ErrInvalid)
	}
	wrong := map[string]attrs{}
	for p := range candidates {
		top, e, err := overlay.Find(layers, p)
		if err != nil {
			return nil, err
		}
		if e != overlay.Directory && e != overlay.Opaque || !implies(stack[top], p) {
			continue
		}
		a, err := effective(stack, layers, p)
		if err != nil {
			return nil, err
		}
		if !a.plain() {
			wrong[p] = a
		}
	}
	if err := addParents(wrong, stack, layers); err != nil {
		return nil, err
	}
	out := make([]attrs, 0, len(wrong))
	for _, a := range wrong {
		out = append(out, a)
	}
	slices.SortFunc(out, func(a, b attrs) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// addParents completes the tree: the fix layer has to say the right thing about every directory it has.
func addParents(wrong map[string]attrs, stack []*slot, layers []string) error {
	for _, p := range slices.Collect(maps.Keys(wrong)) {
		for p != "." {
			p = path.Dir(p)
			if _, ok := wrong[p]; ok {
				break
			}
			a, err := effective(stack, layers, p)
			if err != nil {
				return err
			}
			wrong[p] = a
		}
	}
	return nil
}

func implies(s *slot, p string) bool {
	_, ok := slices.BinarySearch(s.res.Implied, p)
	return ok
}

// effective gives the attributes of the topmost layer that describes a directory of the merged stack. If none does, they
// are those of an implied one.
func effective(stack []*slot, layers []string, p string) (attrs, error) {
	for len(layers) > 0 {
		i, e, err := overlay.Find(layers, p)
		if err != nil {
			return attrs{}, err
		}
		if e != overlay.Directory && e != overlay.Opaque {
			break
		}
		if !implies(stack[i], p) {
			return readAttrs(layers[i], p)
		}
		hidden, err := hides(layers[i], p)
		if err != nil {
			return attrs{}, err
		}
		if hidden {
			break
		}
		stack, layers = stack[i+1:], layers[i+1:]
	}
	return attrs{Path: p, Mode: 0o755}, nil
}

// hides says whether a layer that has the directory p hides what lower layers have there.
func hides(layer, p string) (bool, error) {
	for {
		e, err := overlay.Lookup(layer, p)
		if err != nil || e == overlay.Opaque {
			return true, err
		}
		if p == "." {
			return false, nil
		}
		p = path.Dir(p)
	}
}

func (a attrs) plain() bool {
	return a.Mode == 0o755 && a.UID == 0 && a.GID == 0 && len(a.Xattrs) == 0
}

// kept are the extended attributes of directories that mean something to programs.
var kept = [...]string{"system.posix_acl_access", "system.posix_acl_default"} // never written

func readAttrs(layer, p string) (attrs, error) {
	fd, err := overlay.OpenDir(layer, p)
	if err != nil {
		return attrs{}, err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return attrs{}, err
	}
	a := attrs{Path: p, Mode: st.Mode & 0o7777, UID: st.Uid, GID: st.Gid}
	for _, name := range kept {
		buf := make([]byte, 4096)
		if n, err := unix.Fgetxattr(fd, name, buf); err == nil {
			if a.Xattrs == nil {
				a.Xattrs = map[string][]byte{}
			}
			a.Xattrs[name] = buf[:n]
		}
	}
	return a, nil
}

// build makes the directories below root, which is new and empty: every component of a path is one made here.
func build(root string, dirs []attrs) error {
	for _, a := range dirs {
		if !fs.ValidPath(a.Path) {
			return fmt.Errorf("directory %q: %w", a.Path, fs.ErrInvalid)
		}
		name := filepath.Join(root, a.Path)
		if err := os.Mkdir(name, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		if err := errors.Join(os.Lchown(name, int(a.UID), int(a.GID)), unix.Chmod(name, a.Mode)); err != nil {
			return fmt.Errorf("directory %q: %w", a.Path, err)
		}
		for k, v := range a.Xattrs {
			if err := unix.Lsetxattr(name, k, v, 0); err != nil {
				return fmt.Errorf("directory %q: %s: %w", a.Path, k, err)
			}
		}
	}
	return nil
}
