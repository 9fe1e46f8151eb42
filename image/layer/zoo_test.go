package layer_test

import (
	"archive/tar"
	"bytes"
	"errors"
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

// TestZoo unpacks archives that try something, and says what each may become: a tree (without the root), or an error.
func TestZoo(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("n", 256)
	for _, tc := range []struct {
		name    string
		entries []entry
		want    []string
		implied []string // without "."
		opaque  []string
		err     string
	}{
		{name: "empty"},
		{name: "plain", entries: []entry{d("./"), d("a"), f("a/b", "x")}, want: []string{"a 40755", `a/b 100644 "x"`}},
		{name: "absolute names", entries: []entry{f("/etc/passwd", "x"), f("//root", "y")},
			want: []string{"etc 40755", `etc/passwd 100644 "x"`, `root 100644 "y"`}, implied: []string{"etc"}},
		{name: "dot dot", entries: []entry{f("../../canary", "x"), f("./../canary2", "y"), f("a/../../../b", "z")},
			want: []string{`b 100644 "z"`, `canary 100644 "x"`, `canary2 100644 "y"`}},
		{name: "file through link to outside", entries: []entry{l("out", "../../etc"), f("out/passwd", "x")},
			want: []string{"etc 40755", `etc/passwd 100644 "x"`, "out 120777 -> ../../etc"}, implied: []string{"etc"}},
		{name: "file through absolute link", entries: []entry{d("real"), l("link", "/real"), f("link/x", "x")},
			want: []string{"link 120777 -> /real", "real 40755", `real/x 100644 "x"`}},
		{name: "chain of links", entries: []entry{l("a", "b"), l("b", "/c/.."), l("d", "a/../a/e"), f("d/x", "x")},
			want: []string{"a 120777 -> b", "b 120777 -> /c/..", "c 40755", "d 120777 -> a/../a/e", "e 40755", `e/x 100644 "x"`}, implied: []string{"c", "e"}},
		{name: "loop of links", entries: []entry{l("a", "b"), l("b", "a"), f("a/x", "x")}, err: "too many levels"},
		{name: "file replaces link", entries: []entry{l("a", "/etc/passwd"), f("a", "x")}, want: []string{`a 100644 "x"`}},
		{name: "directory replaced by link, then below it", entries: []entry{d("a"), f("a/x", "1"), d("b"), l("a", "b"), f("a/x", "2")},
			want: []string{"a 120777 -> b", "b 40755", `b/x 100644 "2"`}},
		{name: "link replaced by directory", entries: []entry{d("b"), l("a", "b"), f("a/x", "1"), d("a"), f("a/x", "2")},
			want: []string{"a 40755", `a/x 100644 "2"`, "b 40755", `b/x 100644 "1"`}},
		{name: "file over directory", entries: []entry{d("a"), d("a/b"), f("a/b/c", "x"), f("a", "y")}, want: []string{`a 100644 "y"`}},
		{name: "directory over file", entries: []entry{f("a", "y"), d("a"), f("a/b", "x")}, want: []string{"a 40755", `a/b 100644 "x"`}},
		{name: "below a file", entries: []entry{f("a", "y"), f("a/b", "x")}, err: "not a directory"},
		{name: "duplicates", entries: []entry{f("a", "1"), f("a", "22"), d("b"), d("b").with(func(h *tar.Header) { h.Mode = 0o700 })},
			want: []string{`a 100644 "22"`, "b 40700"}},
		{name: "hard link", entries: []entry{f("a", "x"), h("b", "a"), h("c", "/a"), h("d/e", "../../a")},
			want: []string{`a 100644 "x"`, `b 100644 "x"`, `c 100644 "x"`, "d 40755", `d/e 100644 "x"`}, implied: []string{"d"}},
		{name: "hard link outside", entries: []entry{h("a", "../../canary")}, err: "no such file"},
		{name: "hard link outside, absolute", entries: []entry{h("a", "/etc/passwd")}, err: "no such file"},
		{name: "hard link through link to outside", entries: []entry{l("o", "../.."), h("a", "o/canary")}, err: "no such file"},
		{name: "hard link to link", entries: []entry{l("o", "../../canary"), h("a", "o"), f("a", "x")},
			want: []string{`a 100644 "x"`, "o 120777 -> ../../canary"}},
		{name: "write through hard link to link", entries: []entry{l("o", "../.."), h("a", "o"), f("a/x", "x")},
			want: []string{"a 120777 -> ../..", "o 120777 -> ../..", `x 100644 "x"`}},
		{name: "hard link to itself", entries: []entry{f("a", "x"), h("a", "a")}, want: []string{`a 100644 "x"`}},
		{name: "hard link to directory", entries: []entry{d("a"), h("b", "a")}, err: "not permitted"},
		{name: "hard link to whiteout", entries: []entry{f(".wh.a", ""), h("b", "a")}, err: "no such file"},
		{name: "whiteout", entries: []entry{d("a"), f("a/.wh.b", ""), f(".wh.c", "content is nothing")}, want: []string{"a 40755", "a/b 20000 0:0", "c 20000 0:0"}},
		{name: "whiteout of own file, both orders", entries: []entry{f("a", "x"), f(".wh.a", ""), f(".wh.b", ""), f("b", "y")},
			want: []string{`a 100644 "x"`, `b 100644 "y"`}},
		{name: "whiteout of own directory, both orders", entries: []entry{d("a"), f("a/x", ""), f(".wh.a", ""), f(".wh.b", ""), d("b"), f(".wh.c", ""), f("c/x", "")},
			want:   []string{`a 40755 xattrs ["trusted.overlay.opaque"]`, `a/x 100644 ""`, `b 40755 xattrs ["trusted.overlay.opaque"]`, `c 40755 xattrs ["trusted.overlay.opaque"]`, `c/x 100644 ""`},
			opaque: []string{"a", "b", "c"}, implied: []string{"c"}},
		{name: "opaque", entries: []entry{d("a"), f("a/.wh..wh..opq", ""), f("a/x", "x")},
			want: []string{`a 40755 xattrs ["trusted.overlay.opaque"]`, `a/x 100644 "x"`}, opaque: []string{"a"}},
		{name: "opaque on a file", entries: []entry{f("a", "x"), f("a/.wh..wh..opq", "")}, err: "not a directory"},
		{name: "opaque through a link", entries: []entry{l("a", "../.."), f("a/.wh..wh..opq", "")}, want: []string{"a 120777 -> ../.."}, opaque: []string{"."}},
		{name: "opaque, then replaced", entries: []entry{d("a"), f("a/.wh..wh..opq", ""), f("a", "x")}, want: []string{`a 100644 "x"`}},
		{name: "whiteout of parent", entries: []entry{f("a/.wh...", "")}, err: "whiteout of nothing"},
		{name: "whiteout of itself", entries: []entry{f("a/.wh..", "")}, err: "whiteout of nothing"},
		{name: "whiteout of no name", entries: []entry{f("a/.wh.", "")}, err: "whiteout of nothing"},
		{name: "aufs bookkeeping", entries: []entry{f(".wh..wh.plnk", "x"), f(".wh..wh.orph", "y")}},
		{name: "device 0:0 is a whiteout", entries: []entry{dev("a", tar.TypeChar, 0, 0), d("a")},
			want: []string{`a 40755 xattrs ["trusted.overlay.opaque"]`}, opaque: []string{"a"}},
		{name: "devices", entries: []entry{dev("null", tar.TypeChar, 1, 3), dev("disk", tar.TypeBlock, 4095, 1<<20-1), dev("fifo", tar.TypeFifo, 0, 0)},
			want: []string{"disk 60644 4095:1048575", "fifo 10644", "null 20644 1:3"}},
		{name: "device number too large", entries: []entry{dev("x", tar.TypeBlock, 4096, 0)}, err: "device number 4096:0"},
		{name: "device minor too large", entries: []entry{dev("x", tar.TypeChar, 1, 1<<20)}, err: "device number"},
		{name: "negative device number", entries: []entry{dev("x", tar.TypeChar, -1, 0)}, err: "device number"},
		{name: "owner and special bits", entries: []entry{
			f("s", "x").with(func(h *tar.Header) { h.Mode, h.Uid, h.Gid = 0o6755, 1000, 1001 }),
			d("t").with(func(h *tar.Header) { h.Mode, h.Uid = 0o1777, 4294967294 }),
			l("l", "s").with(func(h *tar.Header) { h.Uid = 7 })},
			want: []string{"l 120777 -> s owner 7:0", `s 106755 "x" owner 1000:1001`, "t 41777 owner 4294967294:0"}},
		{name: "owner out of range", entries: []entry{f("a", "x").with(func(h *tar.Header) { h.Uid = 1 << 32 })}, err: "owner 4294967296:0"},
		{name: "owner minus one", entries: []entry{f("a", "x").with(func(h *tar.Header) { h.Gid = 1<<32 - 1 })}, err: "owner"},
		{name: "attributes", entries: []entry{f("a", "x").with(func(h *tar.Header) {
			h.Uid = 5
			h.PAXRecords = map[string]string{"SCHILY.xattr.user.k": "v", "SCHILY.xattr.trusted.overlay.opaque": "y", "SCHILY.xattr.trusted.overlay.redirect": "/etc",
				"SCHILY.xattr.user.overlay.opaque": "y", "SCHILY.xattr.trusted.x": "y", "SCHILY.xattr.security.selinux": "z",
				"SCHILY.xattr.security.capability": "\x01\x00\x00\x02\x00\x04\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"}
		}), d("b").with(func(h *tar.Header) {
			h.PAXRecords = map[string]string{"SCHILY.xattr.trusted.overlay.metacopy": "", "SCHILY.xattr.trusted.overlay.opaque": "y"}
		})},
			want: []string{`a 100644 "x" owner 5:0 xattrs ["security.capability" "user.k"]`, "b 40755"}},
		{name: "name too long", entries: []entry{f(long, "x")}, err: "too long"},
		{name: "path too long", entries: []entry{f(strings.Repeat("a/", 2100)+"x", "x")}, err: "too long"},
		{name: "odd names", entries: []entry{f("new\nline", "x"), f("\xff\xfe", "y"), f(" ", "z"), f("...", "d")},
			want: []string{`  100644 "z"`, `... 100644 "d"`, "new\nline 100644 \"x\"", "\xff\xfe 100644 \"y\""}},
		{name: "root is a file", entries: []entry{f("./", "x").with(func(h *tar.Header) { h.Name = "." })}, err: "the root is not a directory"},
		{name: "root is a link", entries: []entry{l("/", "/etc")}, err: "the root is not a directory"},
		{name: "global header", entries: []entry{{Header: tar.Header{Typeflag: tar.TypeXGlobalHeader, PAXRecords: map[string]string{"path": "/etc/x", "uid": "7"}}}, f("a", "x")},
			want: []string{`a 100644 "x"`}},
		{name: "unknown type", entries: []entry{{Header: tar.Header{Name: "a", Typeflag: 'V'}}}, err: "unknown type"},
		{name: "described after use", entries: []entry{f("a/b/c", "x"), d("a").with(func(h *tar.Header) { h.Mode = 0o711 })},
			want: []string{"a 40711", "a/b 40755", `a/b/c 100644 "x"`}, implied: []string{"a/b"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			c := newCage(t)
			defer c.check(t)
			res, err := unpack(c.dir, bytes.NewReader(archive(t, tc.entries...)), layer.Limits{})
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got := tree(t, c.dir)[1:]
			if !slices.Equal(got, tc.want) {
				t.Errorf("tree is\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(tc.want, "\n"))
			}
			res.Implied = slices.DeleteFunc(res.Implied, func(s string) bool { return s == "." })
			if !slices.Equal(res.Implied, tc.implied) || !slices.Equal(res.Opaque, tc.opaque) {
				t.Errorf("implied %q, want %q; opaque %q, want %q", res.Implied, tc.implied, res.Opaque, tc.opaque)
			}
		})
	}
}

// TestTruncated cuts an archive at each 512 bytes and at odd places: never a success, never a panic.
func TestTruncated(t *testing.T) {
	t.Parallel()
	whole := archive(t, d("a"), f("a/b", strings.Repeat("x", 3000)), f(strings.Repeat("l", 150), "y"))
	for cut := 0; cut < len(whole)-1024; cut += 512 {
		for _, n := range []int{cut, cut + 17} {
			c := newCage(t)
			_, err := unpack(c.dir, io.MultiReader(bytes.NewReader(whole[:n]), failing{}), layer.Limits{})
			if err == nil || !strings.Contains(err.Error(), "the stream broke") {
				t.Errorf("cut at %d: %v", n, err)
			}
		}
	}
	// Without an error of the stream a cut between entries can't be seen here: the digest of the caller is for that. Inside one it can.
	c := newCage(t)
	if _, err := unpack(c.dir, bytes.NewReader(whole[:1024+700]), layer.Limits{}); err == nil || !strings.Contains(err.Error(), "unexpected EOF") {
		t.Errorf("cut content: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, fmt.Errorf("the stream broke") }

// TestBombs: what an archive claims is checked before anything is written.
func TestBombs(t *testing.T) {
	t.Parallel()
	limits := layer.Limits{Bytes: 1 << 20, Entries: 100}
	many := make([]entry, 101)
	for i := range many {
		many[i] = f(fmt.Sprint(i), "")
	}
	sparse := func() []byte { // old GNU format: 1 TiB of hole, no data
		var b [1536]byte
		copy(b[:], "sparse")
		copy(b[100:], "0000644\x000000000\x000000000\x0000000000000\x0000000000000\x00")
		b[156] = 'S'
		copy(b[257:], "ustar  \x00")
		copy(b[386:], "00000000000\x0000000000000\x00")
		b[483] = 0x80 // real size in base 256
		b[489] = 1    // 2^40
		copy(b[148:156], "        ")
		sum := 0
		for _, x := range b[:512] {
			sum += int(x)
		}
		copy(b[148:], fmt.Sprintf("%06o\x00 ", sum))
		return b[:]
	}
	for name, raw := range map[string][]byte{
		"one large file":     archive(t, f("a", strings.Repeat("x", 1<<20+1))),
		"several files":      archive(t, f("a", strings.Repeat("x", 1<<19)), f("a", strings.Repeat("x", 1<<19)), f("a", "y")),
		"too many entries":   archive(t, many...),
		"sparse, a terabyte": sparse(),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := newCage(t)
			defer c.check(t)
			start := time.Now()
			_, err := unpack(c.dir, bytes.NewReader(raw), limits)
			if !errors.Is(err, unix.EFBIG) || !strings.Contains(err.Error(), "file too large") {
				t.Errorf("error is %v", err)
			}
			if took := time.Since(start); took > time.Minute {
				t.Errorf("took %s", took)
			}
		})
	}
}

// TestTimes: files, links and directories get theirs, negative and far ones too.
func TestTimes(t *testing.T) {
	t.Parallel()
	c := newCage(t)
	at := func(sec, nsec int64) func(*tar.Header) {
		return func(h *tar.Header) { h.ModTime, h.Format = time.Unix(sec, nsec), tar.FormatPAX }
	}
	raw := archive(t, d("./").with(at(5, 0)), d("d").with(at(100, 7)), f("d/f", "x").with(at(-1000, 0)), l("d/l", "f").with(at(1<<31, 0)))
	if _, err := unpack(c.dir, bytes.NewReader(raw), layer.Limits{}); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]time.Time{".": time.Unix(5, 0), "d": time.Unix(100, 7), "d/f": time.Unix(-1000, 0), "d/l": time.Unix(1<<31, 0)} {
		st, err := os.Lstat(filepath.Join(c.dir, name))
		if err != nil {
			t.Fatal(err)
		}
		if !st.ModTime().Equal(want) {
			t.Errorf("%s: %s, want %s", name, st.ModTime(), want)
		}
	}
}

// TestCount: bytes in whole blocks, inodes once per file.
func TestCount(t *testing.T) {
	t.Parallel()
	c := newCage(t)
	res, err := unpack(c.dir, bytes.NewReader(archive(t, d("a"), f("a/x", strings.Repeat("x", 5000)), h("a/y", "a/x"), l("z", "a"), f(".wh.w", ""))), layer.Limits{})
	if err != nil {
		t.Fatal(err)
	}
	if res.Inodes != 5 || res.Bytes != 4*4096 {
		t.Errorf("%+v", res)
	}
}

// probe enters the jail like an unpacker and says what it can still do. See TestJail.
func probe(dir string) int {
	fmt.Println(layer.ProbeJail(dir, func() string {
		var out []string
		try := func(name string, err error) {
			if err == nil {
				out = append(out, name)
			}
		}
		_, err := os.ReadDir("/proc/self")
		try("procfs", err)
		_, err = os.Stat("/canary")
		try("host file", err)
		try("mount", unix.Mount("none", "/", "tmpfs", 0, ""))
		try("chroot", unix.Chroot("/"))
		try("unshare", unix.Unshare(unix.CLONE_NEWUSER))
		_, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		try("socket", err)
		try("kill", unix.Kill(unix.Getppid(), 0))
		try("setxattr trusted", func() error {
			fd, err := unix.Open("/", unix.O_RDONLY, 0)
			if err != nil {
				return err
			}
			return unix.Fsetxattr(fd, "trusted.overlay.opaque", []byte("y"), 0)
		}())
		try("exec", unix.Exec("/exe", []string{"exe"}, nil))
		_, _, e := unix.RawSyscall(unix.SYS_CLONE, uintptr(unix.SIGCHLD), 0, 0)
		if e == 0 {
			out = append(out, "fork")
		}
		try("mknod", unix.Mknodat(unix.AT_FDCWD, "/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))))
		_, err = os.Open("/zero")
		try("open device", err)
		return strings.Join(out, ", ")
	}))
	return 0
}
