package attack_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// opened watches files for being opened, which O_PATH does not do.
func opened(t *testing.T, names ...string) (seen func() []string) {
	t.Helper()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	which := map[int32]string{}
	for _, n := range names {
		wd, err := unix.InotifyAddWatch(fd, n, unix.IN_OPEN)
		if err != nil {
			t.Fatal(err)
		}
		which[int32(wd)] = n
	}
	return func() (out []string) {
		buf := make([]byte, 4096)
		for {
			n, err := unix.Read(fd, buf)
			if err != nil || n < unix.SizeofInotifyEvent {
				return out
			}
			for at := 0; at+unix.SizeofInotifyEvent <= n; {
				out = append(out, which[int32(binary.NativeEndian.Uint32(buf[at:]))])
				at += unix.SizeofInotifyEvent + int(binary.NativeEndian.Uint32(buf[at+12:]))
			}
		}
	}
}

// No device or FIFO of an image is opened to make a container of it: some devices act on being opened, and no device
// rules of the container's hold whoever opens them before.
func TestNothingOpened(t *testing.T) {
	t.Parallel()
	for _, kind := range []uint32{unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO} {
		b := newBox(t, "exit", "0").without("/dev")
		var names []string
		for _, n := range []string{"etc/passwd", "etc/group", "dev/null", "dev/zero", "dev/console", "dev/tty", "masked", "etc/hostname", "etc/mtab", "up"} {
			p := b.rootfs + "/" + n
			os.Remove(p)
			if err := unix.Mknod(p, kind|0o666, int(unix.Mkdev(240, 77))); err != nil { // nobody's number
				t.Fatal(err)
			}
			names = append(names, p)
		}
		b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/masked")
		seen := opened(t, names...)
		b.run()
		if got := seen(); len(got) > 0 {
			t.Errorf("type %o: opened: %v", kind, got)
		}
	}
}

// The image's /etc/passwd, of which HOME comes, may be anything: the container starts soon or is refused, and takes
// nothing of the host's (CVE-2023-25153, CVE-2024-9341).
func TestPasswd(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	os.WriteFile(w.dir+"/passwd", []byte("host:x:1000:1000::/home/of-the-host:/bin/sh\n"), 0o644)
	w.before = w.look()
	line := "user:x:1000:1000::/home/good:/bin/sh\n"
	for name, make := range map[string]func(p string) error{
		"sparse": func(p string) error {
			f, err := os.Create(p)
			if err == nil {
				err = f.Truncate(1 << 40)
				f.Close()
			}
			return err
		},
		"fifo":      func(p string) error { return unix.Mkfifo(p, 0o666) },
		"zero":      func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5))) },
		"directory": func(p string) error { return os.Mkdir(p, 0o755) },
		"host":      func(p string) error { return os.Symlink(w.dir+"/passwd", p) },
		"magic":     func(p string) error { return os.Symlink("/proc/self/root"+w.dir+"/passwd", p) },
		"kmsg":      func(p string) error { return os.Symlink("/proc/kmsg", p) },
		"long":      func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("x", 900000)+"\n"+line), 0o644) },
		"many":      func(p string) error { return os.WriteFile(p, []byte(strings.Repeat("a:b:c:d\n", 100000)+line), 0o644) },
		"numbers": func(p string) error {
			return os.WriteFile(p, []byte("a:x:4294968296:0::/wrapped:\nb:x:-4294966296:0::/negative:\nc:x:0x3e8:0::/hex:\nd:x:1e3:0::/exp:\n1000:x:0:0::/named:\n"+line), 0o644)
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			os.Remove(b.rootfs + "/etc/passwd")
			if err := make(b.rootfs + "/etc/passwd"); err != nil {
				t.Fatal(err)
			}
			b.spec.Process.User.UID = 1000
			begin := time.Now()
			s := b.decode(b.run())
			if took := time.Since(begin); took > patience() {
				t.Errorf("took %v", took)
			}
			if s == nil {
				return
			}
			for _, e := range s.Env {
				if home, ok := strings.CutPrefix(e, "HOME="); ok && home != "/" && home != "/home/good" {
					t.Errorf("HOME is %s", home)
				}
			}
		})
	}
	w.check()
}

// Numbers of users on the command line mean themselves or are refused (CVE-2016-3697, CVE-2024-40635): no wrap to root,
// no name of the image that looks like a number.
func TestUserNumbers(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.write("etc/passwd", "root:x:0:0::/:\n4294967296:x:0:0::/:\n1e3:x:0:0::/:\n0x0:x:0:0::/:\n-1:x:0:0::/:\n")
	if _, ok := b.start(); !ok {
		t.Fatal("no container")
	}
	for _, u := range []string{"4294967296", "-1", "-4294967296", "18446744073709551616", "0x0", "1e3", " 0", "0 ", "+0", "00", "1000:4294967296", "1000:-1", "1000:",
		":0", "root\n", "1000:1000:0", "4294967295", "2147483648"} {
		s := b.decode(b.oci("exec", "--user", u, b.id, "/probe", "report"))
		if s == nil {
			continue
		}
		uid, gid, has := strings.Cut(u, ":")
		n, err := strconv.ParseUint(uid, 10, 32)
		if err != nil || uint64(s.UID) != n {
			t.Errorf("%q ran as %d (%v)", u, s.UID, err)
		}
		if g, err := strconv.ParseUint(gid, 10, 32); has && (err != nil || uint64(s.GID) != g) {
			t.Errorf("%q ran with group %d (%v)", u, s.GID, err)
		}
	}
}

// The same in the config: JSON numbers out of range.
func TestConfigNumbers(t *testing.T) {
	t.Parallel()
	for _, n := range []string{"4294967296", "-1", "1e20", "0.5", `"0"`, "18446744073709551616"} {
		b := newBox(t, "report")
		b.spec.Process.User.UID = 424242
		b.config()
		text, _ := os.ReadFile(b.bundle + "/config.json")
		os.WriteFile(b.bundle+"/config.json", []byte(strings.Replace(string(text), "424242", n, 1)), 0o644)
		if s := b.decode(b.oci("run", "--bundle", b.bundle, b.id)); s != nil {
			t.Errorf("uid %s ran as %s", n, fmt.Sprint(s.UID))
		}
	}
}
