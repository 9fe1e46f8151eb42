package image_test

import (
	"archive/tar"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/image/overlay"
)

// TestDamage: whatever is wrong with one image's files costs that image, and a pull brings it back.
func TestDamage(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	common := tarOf(reg("common", "c"))
	r.image("a:1", map[string]any{"User": "1"}, common, tarOf(reg("a", "a")))
	r.image("b:1", map[string]any{"User": "2"}, common, tarOf(reg("b", "b")))
	write := func(content string) func(t *testing.T, name string) {
		return func(t *testing.T, name string) {
			if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for name, tc := range map[string]struct {
		glob func(a image.Image) string
		do   func(t *testing.T, name string)
	}{
		"record empty":      {func(a image.Image) string { return "images/" + strings.Replace(a.ID, ":", "-", 1) + ".json" }, write("")},
		"record cut":        {func(a image.Image) string { return "images/" + strings.Replace(a.ID, ":", "-", 1) + ".json" }, write(`{"id":"sha`)},
		"record of another": {func(a image.Image) string { return "images/" + strings.Replace(a.ID, ":", "-", 1) + ".json" }, write(`{"id":"sha256:aa","config":"e30="}`)},
		"record lies":       {func(a image.Image) string { return "images/" + strings.Replace(a.ID, ":", "-", 1) + ".json" }, nil},
		"layer data":        {func(a image.Image) string { return strings.TrimSuffix(a.Layers[0], "fs") + "layer.json" }, write("{")},
		"layer gone":        {func(a image.Image) string { return filepath.Dir(a.Layers[0]) }, func(t *testing.T, name string) { os.RemoveAll(name) }},
		"layer hollow":      {func(a image.Image) string { return a.Layers[0] }, func(t *testing.T, name string) { os.RemoveAll(name) }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			root := t.TempDir()
			s := openAt(t, root)
			a, b := pull(t, s, r.host()+"/a:1"), pull(t, s, r.host()+"/b:1")
			path := tc.glob(a)
			if !filepath.IsAbs(path) {
				path = filepath.Join(root, path)
			}
			if tc.do != nil {
				tc.do(t, path)
			} else { // another configuration under the same id
				raw, _ := os.ReadFile(path)
				i := strings.Index(string(raw), `"config":"`) + 30
				raw[i] ^= 1
				os.WriteFile(path, raw, 0o600)
			}
			s = openAt(t, root)
			if len(s.Warnings()) == 0 {
				t.Error("nothing was said")
			}
			if l := s.List(); len(l) != 1 || l[0].ID != b.ID {
				t.Errorf("%d images", len(l))
			}
			again := pull(t, s, r.host()+"/a:1")
			if c, err := again.ReadFile("/a", 9); err != nil || string(c) != "a" || again.ID != a.ID {
				t.Errorf("after pulling again: %q %v", c, err)
			}
			if err := s.Collect(context.Background()); err != nil {
				t.Error(err)
			}
			if s = openAt(t, root); len(s.Warnings()) != 0 || len(s.List()) != 2 {
				t.Errorf("third start: %v, %d images", s.Warnings(), len(s.List()))
			}
		})
	}
}

// TestKeep: after a start layers without an image live until Collect, and longer when somebody keeps them.
func TestKeep(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("a", "a")))
	r.image("b:1", nil, tarOf(reg("b", "b")))
	root := t.TempDir()
	s := openAt(t, root)
	a, b := pull(t, s, r.host()+"/a:1"), pull(t, s, r.host()+"/b:1")
	for _, i := range []image.Image{a, b} {
		if _, err := s.Hold(i.ID, "c"); err != nil {
			t.Fatal(err)
		}
		if err := s.Remove(context.Background(), i.ID); err != nil {
			t.Fatal(err)
		}
	}
	s = openAt(t, root) // as after a crash: holds are forgotten
	for _, l := range []string{a.Layers[0], b.Layers[0]} {
		if _, err := os.Stat(l); err != nil {
			t.Error(err)
		}
	}
	s.Keep("c", a.Layers)
	s.Keep("c", []string{"/nonsense", "", "relative/x"})
	if err := s.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(a.Layers[0]); err != nil {
		t.Errorf("kept: %v", err)
	}
	if _, err := os.Stat(b.Layers[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("not kept: %v", err)
	}
	if err := s.Release("c"); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(a.Layers[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("released: %v", err)
	}
}

// TestKill: a process that dies while pulling leaves a store that opens, has no half image, and pulls.
func TestKill(t *testing.T) {
	t.Parallel()
	needRoot(t)
	r := newRegistry(t)
	var layers [][]byte
	for i := range 6 {
		layers = append(layers, tarOf(reg("f"+string(rune('0'+i)), strings.Repeat("x", 1<<20))))
	}
	r.image("a:1", nil, layers...)
	root := t.TempDir()
	for round := range 8 {
		cmd := exec.Command("/proc/self/exe", "pull", root, r.host()+"/a:1")
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(10+round*25) * time.Millisecond)
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		s := openAt(t, root)
		if w := s.Warnings(); len(w) != 0 {
			t.Errorf("round %d: %v", round, w)
		}
		for _, img := range s.List() {
			for i := range layers {
				if b, err := img.ReadFile("f"+string(rune('0'+i)), 2<<20); err != nil || len(b) != 1<<20 {
					t.Errorf("round %d: layer %d has %d bytes, %v", round, i, len(b), err)
				}
			}
		}
		s.Close()
		leftovers(t, s, root)
	}
	s := openAt(t, root)
	pull(t, s, r.host()+"/a:1")
}

// TestImplied: a directory that a layer only implies keeps what a lower layer says of it.
func TestImplied(t *testing.T) {
	t.Parallel()
	attr := func(f file, mode int64, uid int) file {
		f.Mode, f.Uid = mode, uid
		return f
	}
	r := newRegistry(t)
	r.image("a:1", nil,
		tarOf(attr(dir("./"), 0o711, 3), attr(dir("tmp/"), 0o1777, 0), attr(dir("home/"), 0o755, 0), attr(dir("home/u/"), 0o700, 1000), dir("plain/"), attr(dir("gone/"), 0o700, 9), attr(dir("hid/"), 0o700, 8)),
		tarOf(reg("tmp/x", "x"), reg(".wh.gone", ""), reg("hid/.wh..wh..opq", ""), reg("hid/new", "")),
		tarOf(reg("home/u/.profile", "x"), reg("plain/x", "x"), reg("gone/back", "x")))
	root := t.TempDir()
	s := openAt(t, root)
	img := pull(t, s, r.host()+"/a:1")
	if len(img.Layers) != 4 {
		t.Fatalf("layers %q", img.Layers)
	}
	fd, err := overlay.Mount(img.Layers)
	if errors.Is(err, errors.ErrUnsupported) {
		t.Skip("needs a kernel whose overlays take their layers one by one: ", err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	for name, want := range map[string][2]uint32{".": {0o711, 3}, "tmp": {0o1777, 0}, "home": {0o755, 0}, "home/u": {0o700, 1000}, "plain": {0o755, 0}, "gone": {0o755, 0}, "hid": {0o755, 0}} {
		var st unix.Stat_t
		if err := unix.Fstatat(fd, name, &st, 0); err != nil || st.Mode&0o7777 != want[0] || st.Uid != want[1] {
			t.Errorf("%s: mode %o, owner %d, %v; want %o, %d", name, st.Mode&0o7777, st.Uid, err, want[0], want[1])
		}
	}
	for name, want := range map[string]bool{"/tmp/x": true, "/home/u/.profile": true, "/gone/back": true, "/hid/new": true} {
		if _, err := img.ReadFile(name, 10); (err == nil) != want {
			t.Errorf("%s: %v", name, err)
		}
	}
	if again, err := openAt(t, root).Resolve(img.ID); err != nil || !slices.Equal(again.Layers, img.Layers) {
		t.Errorf("after a restart: %q, %v", again.Layers, err)
	}
	if err := s.Collect(context.Background()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(img.Layers[0]); err != nil {
		t.Error(err)
	}
}

// TestStacks: no layers, empty layers, the same layer twice, a layer that hides everything.
func TestStacks(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	a, b, empty := tarOf(dir("./"), reg("a", "a")), tarOf(dir("./"), reg(".wh.a", ""), reg("b", "b")), tarOf()
	r.image("none:1", nil)
	r.image("empty:1", nil, empty)
	r.image("twice:1", nil, a, b, empty, a)
	r.image("opaque:1", nil, a, tarOf(dir("./"), reg(".wh..wh..opq", ""), reg("c", "c")))
	s := open(t)
	for name, want := range map[string]struct {
		layers int
		files  string
	}{"none": {1, ""}, "empty": {1, ""}, "twice": {2, "ab"}, "opaque": {1, "c"}} {
		img := pull(t, s, r.host()+"/"+name+":1")
		have := ""
		for _, f := range []string{"a", "b", "c"} {
			if _, err := img.ReadFile(f, 10); err == nil {
				have += f
			}
		}
		if len(img.Layers) != want.layers || have != want.files || img.Size == 0 {
			t.Errorf("%s: layers %q, files %q, size %d", name, img.Layers, have, img.Size)
		}
	}
}

// TestPinned: by glob, and only advice.
func TestPinned(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("pause:1", map[string]any{"User": "1"}, tarOf(reg("a", "a")))
	r.image("other:1", nil, tarOf(reg("a", "a")))
	s := open(t, func(o *image.Options) { o.Pinned = []string{"*/pause:*"} })
	if i := pull(t, s, r.host()+"/pause:1"); !i.Pinned {
		t.Error("not pinned")
	}
	if i := pull(t, s, r.host()+"/other:1"); i.Pinned {
		t.Error("pinned")
	}
	if err := s.Remove(context.Background(), r.host()+"/pause:1"); err != nil || len(s.List()) != 1 {
		t.Errorf("removal of a pinned image: %v", err)
	}
}

// TestHostileFiles: what an image may put where a passwd file is expected.
func TestHostileFiles(t *testing.T) {
	t.Parallel()
	special := func(name string, flag byte, link string) file {
		return file{Header: tar.Header{Name: name, Typeflag: flag, Linkname: link, Mode: 0o644, Devmajor: 1, Devminor: 5}}
	}
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(dir("etc/"), special("etc/passwd", tar.TypeSymlink, "/proc/self/environ"), special("etc/group", tar.TypeFifo, ""), special("etc/zero", tar.TypeChar, ""),
		special("etc/host", tar.TypeSymlink, "../../../../../etc/hostname"), special("etc/loop", tar.TypeSymlink, "loop"), reg("etc/big", strings.Repeat("x", 5000)), special("link", tar.TypeSymlink, "/etc/../etc/big")),
		tarOf(dir("etc/"), reg("etc/other", "o")))
	s := open(t)
	img := pull(t, s, r.host()+"/a:1")
	for name, want := range map[string]error{"/etc/passwd": fs.ErrNotExist, "/etc/group": fs.ErrInvalid, "/etc/zero": fs.ErrInvalid, "/etc/host": fs.ErrNotExist,
		"/etc/loop": unix.ELOOP, "/etc/big": overlay.ErrTooLarge, "/link": overlay.ErrTooLarge, "/etc": fs.ErrInvalid, "/../../etc/hostname": fs.ErrNotExist, "/etc/other/x": unix.ENOTDIR} {
		for range 2 {
			if b, err := img.ReadFile(name, 4096); !errors.Is(err, want) {
				t.Errorf("%s: %d bytes, %v; want %v", name, len(b), err, want)
			}
		}
	}
	if b, err := img.ReadFile("/link", 5000); err != nil || len(b) != 5000 {
		t.Errorf("through a link: %d bytes, %v", len(b), err)
	}
}
