package overlay_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/overlay"
)

func TestFurnish(t *testing.T) {
	t.Parallel()
	needRoot(t)
	stack := []string{build(t, "etc/", "etc/passwd", "linked>etc", "full/", "full/mtab"), build(t, "etc/", "etc/old", "run/", "run/sub/")}
	must(t, os.Lchown(filepath.Join(stack[0], "etc/passwd"), 3, 4), os.Chmod(filepath.Join(stack[0], "etc/passwd"), 0o604), os.Chmod(filepath.Join(stack[0], "etc"), 0o751))
	dir := t.TempDir()
	must(t, overlay.Prepare(dir, stack[0]))
	upper := filepath.Join(dir, "upper")
	must(t, overlay.Furnish(upper, stack, func(uid, gid uint32) (int, int) { return int(uid) + 1000, int(gid) + 2000 },
		overlay.Item{Name: "etc/mtab", Link: "/proc/mounts"},
		overlay.Item{Name: "etc/passwd", Data: []byte("new"), Replace: true},
		overlay.Item{Name: "etc/group", Data: []byte("not in the image"), Replace: true},
		overlay.Item{Name: "etc/old", Data: []byte("is in the image")},
		overlay.Item{Name: "run/sub/mark", Data: []byte{}},
		overlay.Item{Name: "linked/mtab", Link: "x"},
		overlay.Item{Name: "full/mtab", Link: "x"},
		overlay.Item{Name: "missing/mtab", Link: "x"},
	))
	var have []string
	must(t, filepath.WalkDir(upper, func(p string, d os.DirEntry, err error) error {
		rel, _ := filepath.Rel(upper, p)
		have = append(have, rel)
		return err
	}))
	want := []string{".", "etc", "etc/mtab", "etc/passwd", "run", "run/sub", "run/sub/mark"}
	if len(have) != len(want) {
		t.Fatalf("made %q, want %q", have, want)
	}
	for i := range want {
		if have[i] != want[i] {
			t.Fatalf("made %q, want %q", have, want)
		}
	}
	var st unix.Stat_t
	must(t, unix.Lstat(filepath.Join(upper, "etc/passwd"), &st))
	if b, err := os.ReadFile(filepath.Join(upper, "etc/passwd")); err != nil || string(b) != "new" || st.Uid != 1003 || st.Gid != 2004 || st.Mode&0o7777 != 0o604 {
		t.Errorf("passwd %q, %v, %+v", b, err, st)
	}
	must(t, unix.Lstat(filepath.Join(upper, "etc"), &st))
	must(t, unix.Lstat(upper, &st))
	if st.Uid != 0 {
		t.Errorf("the upper directory belongs to %d: whoever mounts it maps it", st.Uid)
	}
	must(t, unix.Lstat(filepath.Join(upper, "etc"), &st))
	if st.Mode&0o7777 != 0o751 || st.Uid != 1000 || st.Gid != 2000 {
		t.Errorf("mode of etc is %o", st.Mode)
	}
}
