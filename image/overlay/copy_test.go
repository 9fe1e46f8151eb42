package overlay_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/overlay"
)

var plenty = overlay.CopyLimits{Bytes: 1 << 30, Entries: 1 << 20}

// describe lists a tree: path, type and mode, owner, modification time, link target or content.
func describe(t *testing.T, root string) string {
	t.Helper()
	var out strings.Builder
	must(t, filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		must(t, unix.Lstat(p, &st))
		if st.Mode&unix.S_IFMT == unix.S_IFCHR || st.Mode&unix.S_IFMT == unix.S_IFBLK || st.Mode&unix.S_IFMT == unix.S_IFSOCK {
			return nil
		}
		rel, _ := filepath.Rel(root, p)
		what := ""
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			what, err = os.Readlink(p)
		case unix.S_IFREG:
			var b []byte
			b, err = os.ReadFile(p)
			what = string(b)
		}
		fmt.Fprintf(&out, "%s %o %d:%d %d %s\n", rel, st.Mode, st.Uid, st.Gid, st.Mtim.Sec, what)
		return err
	}))
	return out.String()
}

// What is copied is what the kernel merges.
func TestCopyIsTheMergedTree(t *testing.T) {
	t.Parallel()
	needRoot(t)
	stack := []string{
		build(t, "v/", "v/top", "-v/gone", "v/o/!", "v/o/mine", "v/link>/etc/shadow", "v/up>../../../..", "|v/fifo", "-v/dir"),
		build(t, "v/", "v/gone", "v/o/", "v/o/hidden", "v/sub/", "v/sub/b", "v/dir/", "v/dir/x"),
		build(t, "v/", "v/sub/", "v/sub/a", "v/sub/b", "v/top"),
	}
	v := filepath.Join(stack[2], "v/sub")
	must(t, os.Link(filepath.Join(v, "a"), filepath.Join(v, "twin")), os.Lchown(filepath.Join(v, "a"), 1234, 5678), unix.Chmod(filepath.Join(v, "a"), 0o4711),
		unix.Setxattr(filepath.Join(v, "a"), "user.note", []byte("kept"), 0), unix.Mknod(filepath.Join(v, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	when := time.Unix(1e9, 0)
	must(t, os.Chtimes(filepath.Join(v, "a"), when, when), os.Chmod(filepath.Join(stack[0], "v"), 0o1770), os.Lchown(filepath.Join(stack[0], "v"), 7, 8))
	dirs, _, err := overlay.Sub(stack, "v")
	must(t, err)
	to := t.TempDir()
	must(t, overlay.Copy(t.Context(), dirs, to, plenty))
	fd := mount(t, dirs)
	merged := os.NewFile(uintptr(fd), "")
	defer merged.Close()
	if want, got := describe(t, fmt.Sprintf("/proc/self/fd/%d/.", fd)), describe(t, to); got != want {
		t.Errorf("copied:\n%s\nmerged:\n%s", got, want)
	}
	a, err1 := os.Stat(filepath.Join(to, "sub/a"))
	twin, err2 := os.Stat(filepath.Join(to, "sub/twin"))
	must(t, err1, err2)
	if !os.SameFile(a, twin) {
		t.Error("two names of a file have become two files")
	}
	var note [8]byte
	if n, err := unix.Getxattr(filepath.Join(to, "sub/a"), "user.note", note[:]); err != nil || string(note[:n]) != "kept" {
		t.Errorf("attribute %q, %v", note[:n], err)
	}
	if _, err := os.Lstat(filepath.Join(to, "sub/null")); err == nil {
		t.Error("a device was copied")
	}
}

func TestCopyLimits(t *testing.T) {
	t.Parallel()
	needRoot(t)
	big := build(t, "a", "b", "c")
	must(t, os.Truncate(filepath.Join(big, "a"), 1<<20))
	for what, l := range map[string]overlay.CopyLimits{"bytes": {Bytes: 1 << 19, Entries: 100}, "entries": {Bytes: 1 << 30, Entries: 2}} {
		if err := overlay.Copy(t.Context(), []string{big}, t.TempDir(), l); !errors.Is(err, overlay.ErrCopyLimit) {
			t.Errorf("%s: %v", what, err)
		}
	}
	deep := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(deep, strings.Repeat("d/", 300)), 0o755))
	if err := overlay.Copy(t.Context(), []string{deep}, t.TempDir(), plenty); !errors.Is(err, overlay.ErrCopyLimit) {
		t.Errorf("depth: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := overlay.Copy(ctx, []string{big}, t.TempDir(), plenty); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
