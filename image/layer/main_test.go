package layer_test

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/layer"
)

// TestMain lets the test binary be the unpacking child.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "unpack":
			os.Exit(layer.UnpackMain(os.Args[2:]))
		case "probe":
			os.Exit(probe(os.Args[2]))
		}
	}
	os.Exit(m.Run())
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: mount namespaces, device nodes, owners")
	}
}

func unpack(dir string, r io.Reader, limits layer.Limits) (layer.Result, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return layer.Unpack(ctx, layer.Job{Argv: []string{"/proc/self/exe", "unpack"}, Dir: dir, Stream: r, Limits: limits})
}

// entry is a tar header with content. Zero mode means 0644 or 0755.
type entry struct {
	tar.Header
	content string
}

func f(name, content string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeReg}, content}
}
func d(name string) entry { return entry{tar.Header{Name: name, Typeflag: tar.TypeDir}, ""} }
func l(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target}, ""}
}
func h(name, target string) entry {
	return entry{tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target}, ""}
}
func dev(name string, flag byte, major, minor int64) entry {
	return entry{tar.Header{Name: name, Typeflag: flag, Devmajor: major, Devminor: minor}, ""}
}
func (e entry) with(change func(*tar.Header)) entry {
	change(&e.Header)
	return e
}

func archive(t testing.TB, all ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range all {
		if e.Mode == 0 && e.Typeflag != tar.TypeXGlobalHeader {
			e.Mode = 0o644
			if e.Typeflag == tar.TypeDir {
				e.Mode = 0o755
			}
		}
		e.Size = int64(len(e.content))
		if err := w.WriteHeader(&e.Header); err != nil {
			t.Fatalf("%q: %v", e.Name, err)
		}
		if _, err := w.Write([]byte(e.content)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

// tree lists what is below dir: a line for each file, sorted by name.
func tree(t testing.TB, dir string, skip ...string) []string {
	t.Helper()
	var out []string
	err := filepath.WalkDir(dir, func(p string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(p, &st); err != nil {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		if slices.Contains(skip, name) {
			return filepath.SkipDir
		}
		line := fmt.Sprintf("%s %o", name, st.Mode)
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			b, err := os.ReadFile(p)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %q", b)
		case unix.S_IFLNK:
			s, _ := os.Readlink(p)
			line += " -> " + s
		case unix.S_IFCHR, unix.S_IFBLK:
			line += fmt.Sprintf(" %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
		if st.Uid != 0 || st.Gid != 0 {
			line += fmt.Sprintf(" owner %d:%d", st.Uid, st.Gid)
		}
		buf := make([]byte, 4096)
		if n, err := unix.Llistxattr(p, buf); err == nil && n > 0 {
			names := strings.Split(strings.TrimRight(string(buf[:n]), "\x00"), "\x00")
			slices.Sort(names)
			line += fmt.Sprintf(" xattrs %q", names)
		}
		out = append(out, line)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// cage is a directory to unpack into with things around it that must not change.
type cage struct {
	dir    string
	base   string
	before []string
}

func newCage(t testing.TB) *cage {
	t.Helper()
	needRoot(t)
	base := t.TempDir()
	c := &cage{dir: filepath.Join(base, "a", "stage"), base: base}
	for _, p := range []string{c.dir, filepath.Join(base, "etc")} {
		if err := os.MkdirAll(p, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	for _, p := range []string{"canary", "a/canary", "etc/passwd"} {
		if err := os.WriteFile(filepath.Join(base, p), []byte("untouched"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	c.before = c.outside(t)
	return c
}

func (c *cage) outside(t testing.TB) []string {
	return tree(t, c.base, "a/stage")
}

// check fails the test when anything outside has changed.
func (c *cage) check(t testing.TB) {
	t.Helper()
	if after := c.outside(t); fmt.Sprint(after) != fmt.Sprint(c.before) {
		t.Errorf("outside changed:\n%s\nwas\n%s", strings.Join(after, "\n"), strings.Join(c.before, "\n"))
	}
}
