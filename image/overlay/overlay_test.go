package overlay_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/overlay"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: whiteouts, owners, mounts")
	}
}

func must(t testing.TB, errs ...error) {
	t.Helper()
	if err := errors.Join(errs...); err != nil {
		t.Fatal(err)
	}
}

// build makes a layer: "name" a file with its own name as content, "name/" a directory, "name/!" an opaque one, "-name" a whiteout, "name>target" a link,
// "|name" a FIFO.
func build(t testing.TB, names ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, n := range names {
		link, target, isLink := strings.Cut(n, ">")
		switch {
		case isLink:
			must(t, os.Symlink(target, filepath.Join(root, link)))
		case strings.HasSuffix(n, "/!"):
			d := filepath.Join(root, n[:len(n)-2])
			must(t, os.MkdirAll(d, 0o755), unix.Setxattr(d, "trusted.overlay.opaque", []byte("y"), 0))
		case strings.HasSuffix(n, "/"):
			must(t, os.MkdirAll(filepath.Join(root, n), 0o755))
		case n[0] == '-':
			must(t, unix.Mknod(filepath.Join(root, n[1:]), unix.S_IFCHR, 0))
		case n[0] == '|':
			must(t, unix.Mkfifo(filepath.Join(root, n[1:]), 0o644))
		default:
			must(t, os.WriteFile(filepath.Join(root, n), []byte(filepath.Base(root)+" "+n), 0o644))
		}
	}
	return root
}

// TestReadFile compares the kernel's merged tree with the walk by hand over the same stack, for every kind of name.
func TestReadFile(t *testing.T) {
	t.Parallel()
	needRoot(t)
	stack := []string{
		build(t, "top", "d/", "d/top", "-gone", "o/!", "o/new", "w/", "-w/x", "f", "abs>/d/bottom", "rel>d/../d/mid", "up>../../../../d/top", "loop>loop", "dirlink>d", "|fifo", "env>/proc/self/environ", "out>../../../../../../etc/hostname"),
		build(t, "d/", "d/mid", "gone", "o/", "o/old", "w/", "w/x", "w/y", "f/", "f/below"),
		build(t, "d/", "d/bottom", "d/top", "gone/", "gone/below", "o/", "o/older", "bottom", "f/", "f/deeper"),
	}
	for _, name := range []string{"top", "/top", "d/top", "d/mid", "d/bottom", "bottom", "gone", "gone/below", "o/new", "o/old", "o/older", "w/x", "w/y", "f", "f/below", "f/deeper", "abs", "rel", "up", "loop", "loop/x",
		"dirlink/mid", "dirlink/../bottom", "d", "/", ".", "", "nothing", "fifo", "env", "out", "../../top", "top/", "top/x", "d//./mid", strings.Repeat("x", 256)} {
		if name == "" {
			continue
		}
		kernel, err1 := overlay.ReadFile(stack, name, 4096)
		hand, err2 := overlay.ReadFileByHand(stack, name, 4096)
		if string(kernel) != string(hand) || (err1 == nil) != (err2 == nil) || errors.Is(err1, fs.ErrNotExist) != errors.Is(err2, fs.ErrNotExist) {
			t.Errorf("%q: kernel %q %v, by hand %q %v", name, kernel, err1, hand, err2)
		}
	}
	if b, err := overlay.ReadFile(stack, "d/top", 4096); err != nil || string(b) != filepath.Base(stack[0])+" d/top" {
		t.Errorf("d/top: %q %v", b, err)
	}
	for name, want := range map[string]error{"gone": fs.ErrNotExist, "o/old": fs.ErrNotExist, "w/x": fs.ErrNotExist, "d": fs.ErrInvalid, "fifo": fs.ErrInvalid, "env": fs.ErrNotExist, "out": fs.ErrNotExist, "loop": unix.ELOOP} {
		for _, read := range []func([]string, string, int64) ([]byte, error){overlay.ReadFile, overlay.ReadFileByHand} {
			if _, err := read(stack, name, 10); !errors.Is(err, want) {
				t.Errorf("%s: %v, want %v", name, err, want)
			}
		}
	}
	if _, err := overlay.ReadFile(nil, "x", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no layers: %v", err)
	}
	if _, err := overlay.ReadFile([]string{"/nonexistent"}, "x", 1); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing layer: %v", err)
	}
}

// TestSparse: a file of a terabyte is refused by its size, not read.
func TestSparse(t *testing.T) {
	t.Parallel()
	needRoot(t)
	l := build(t, "big")
	must(t, os.Truncate(filepath.Join(l, "big"), 1<<40))
	if _, err := overlay.ReadFile([]string{l}, "big", 1<<20); !errors.Is(err, overlay.ErrTooLarge) {
		t.Error(err)
	}
}

// TestMountLeavesNothing: a merged tree is no mount of the host.
func TestMountLeavesNothing(t *testing.T) {
	needRoot(t)
	stack := []string{build(t, "a"), build(t, "b")}
	fd := mount(t, stack)
	table, err := os.ReadFile("/proc/self/mountinfo")
	must(t, err, unix.Close(fd))
	if strings.Contains(string(table), stack[0]) {
		t.Error("it is in the mount table")
	}
}

func TestPrepare(t *testing.T) {
	t.Parallel()
	needRoot(t)
	top := build(t, "x")
	must(t, os.Chown(top, 12, 34), unix.Chmod(top, 0o2711))
	d := t.TempDir()
	for range 2 {
		must(t, overlay.Prepare(d, top))
	}
	var st unix.Stat_t
	must(t, unix.Stat(filepath.Join(d, "upper"), &st))
	if st.Mode&0o7777 != 0o2711 || st.Uid != 12 || st.Gid != 34 {
		t.Errorf("upper: mode %o, owner %d:%d", st.Mode&0o7777, st.Uid, st.Gid)
	}
	must(t, unix.Stat(filepath.Join(d, "work"), &st))
	if st.Mode&0o7777 != 0o700 || st.Uid != 0 {
		t.Errorf("work: mode %o, owner %d", st.Mode&0o7777, st.Uid)
	}
	if err := overlay.Prepare(d, "/nonexistent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	must(t, overlay.Prepare(t.TempDir(), ""))
}

func TestUsage(t *testing.T) {
	t.Parallel()
	needRoot(t)
	d := build(t, "a", "d/", "d/b", "l>../../../../etc", "-w")
	must(t, os.Link(filepath.Join(d, "a"), filepath.Join(d, "d/again")), os.WriteFile(filepath.Join(d, "big"), make([]byte, 1<<20), 0o600), os.Truncate(filepath.Join(d, "a"), 1<<40))
	bytes, inodes, err := overlay.Usage(d)
	if err != nil || inodes != 7 || bytes < 1<<20 || bytes > 2<<20 {
		t.Errorf("%d bytes, %d inodes, %v", bytes, inodes, err)
	}
	if _, _, err := overlay.Usage(filepath.Join(d, "l")); err == nil {
		t.Error("a link was followed")
	}
	if _, _, err := overlay.Usage("/nonexistent"); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestFind(t *testing.T) {
	t.Parallel()
	needRoot(t)
	stack := []string{build(t, "-a", "o/!", "o/x"), build(t, "a/", "a/b", "o/", "o/y", "l>a")}
	for name, want := range map[string]struct {
		layer int
		entry overlay.Entry
	}{"a": {0, overlay.Absent}, "a/b": {0, overlay.Absent}, "o": {0, overlay.Opaque}, "o/x": {0, overlay.File}, "o/y": {0, overlay.Absent}, "l": {1, overlay.Link}, ".": {0, overlay.Directory}, "l/b": {1, overlay.Absent}} {
		i, e, err := overlay.Find(stack, name)
		if err != nil || i != want.layer || e != want.entry {
			t.Errorf("%s: layer %d, %v, %v; want %v", name, i, e, err, want)
		}
	}
}

// TestSub compares what Sub says with the kernel's merged tree of the stack it returns.
func TestSub(t *testing.T) {
	t.Parallel()
	needRoot(t)
	stack := []string{
		build(t, "a/", "a/top", "-a/gone", "o/!", "o/sub/", "o/sub/one", "w/", "-w/sub", "f", "link>/a/deep/../deep", "abs>/../../etc", "out>../../../../etc/passwd", "loop>loop", "|a/fifo", "etc/"),
		build(t, "a/", "a/middle", "a/deep/", "a/deep/x", "o/", "o/sub/", "o/sub/two", "w/", "w/sub/", "w/sub/y"),
		build(t, "a/", "a/gone", "a/bottom", "a/deep/", "a/deep/z", "f/", "f/under", "w/", "w/sub/", "w/sub/below"),
	}
	for _, c := range []struct {
		name, want string // names in the merged directory, sorted; "=file"; or the error
	}{
		{"a", "bottom deep fifo middle top"},
		{"a/", "bottom deep fifo middle top"},
		{".", "a abs etc f link loop o out w"},
		{"a/..", "a abs etc f link loop o out w"},
		{"a/deep", "x z"},
		{"link", "x z"},
		{"o/sub", "one"},
		{"o", "sub"},
		{"w", ""},
		{"w/sub", "missing"},
		{"a/gone", "missing"},
		{"a/top", "=0/a/top"},
		{"a/bottom", "=2/a/bottom"},
		{"link/x", "=1/a/deep/x"},
		{"f", "=0/f"},
		{"f/under", "not a directory"},
		{"abs", ""},
		{"out", "missing"},
		{"loop", "too many levels of symbolic links"},
		{"a/fifo", "invalid"},
		{"nothing/at/all", "missing"},
	} {
		dirs, file, err := overlay.Sub(stack, c.name)
		got := ""
		switch {
		case errors.Is(err, fs.ErrNotExist):
			got = "missing"
		case errors.Is(err, fs.ErrInvalid):
			got = "invalid"
		case err != nil:
			got = err.Error()[strings.LastIndex(err.Error(), ": ")+2:]
		case file != "":
			for i, l := range stack {
				if rest, ok := strings.CutPrefix(file, l); ok {
					got = "=" + string(rune('0'+i)) + rest
				}
			}
		default:
			got = strings.Join(listing(t, dirs), " ")
		}
		if got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
}

// mount makes an overlay of a stack, where the kernel can.
func mount(t *testing.T, stack []string) int {
	t.Helper()
	needRoot(t)
	fd, err := overlay.Mount(stack)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("needs a kernel whose overlays take their layers one by one: ", err)
	}
	must(t, err)
	return fd
}

// listing asks the kernel what is in a stack.
func listing(t *testing.T, dirs []string) []string {
	t.Helper()
	from := dirs[0]
	if len(dirs) > 1 {
		fd := mount(t, dirs)
		f := os.NewFile(uintptr(fd), "")
		defer f.Close()
		from = "/proc/self/fd/" + strconv.Itoa(fd)
	}
	entries, err := os.ReadDir(from)
	must(t, err)
	var names []string
	for _, e := range entries {
		if e.Type()&fs.ModeCharDevice == 0 {
			names = append(names, e.Name())
		}
	}
	return names
}
