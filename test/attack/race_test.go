package attack_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

// swaps is how many exchanges each race has to see at least.
const swaps = 100_000

// swapper exchanges pairs of names until it is stopped.
type swapper struct {
	pairs [][2]string
	count atomic.Int64
	stop  atomic.Bool
	done  chan struct{}
}

func swap(pairs ...[2]string) *swapper {
	s := &swapper{pairs: pairs, done: make(chan struct{})}
	// ends when stop is set
	go func() {
		defer close(s.done)
		for !s.stop.Load() {
			for _, p := range s.pairs {
				if unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE) == nil {
					s.count.Add(1)
				}
			}
		}
	}()
	return s
}

func (s *swapper) end() int64 {
	s.stop.Store(true)
	<-s.done
	return s.count.Load()
}

// race makes containers while pairs are exchanged: as many as it takes for enough exchanges, between a few and many. The
// look is taken at each that started.
func race(t *testing.T, b *box, look func(*seen.Reach), pairs ...[2]string) {
	t.Helper()
	least, most := 25, 60
	if long() {
		least = creates()
		most = least
	}
	s := swap(pairs...)
	started, n := 0, 0
	for begin := time.Now(); n < most && (n < least || s.count.Load() < swaps) && (long() || time.Since(begin) < 25*time.Second); n++ {
		r := b.report(append([]string{"/decoy/secret"}, confined...)...)
		if r != nil {
			started++
			look(r)
		}
		b.oci("delete", "--force", b.id)
		if t.Failed() {
			break
		}
	}
	for s.count.Load() < swaps && !t.Failed() {
		b.run()
		b.oci("delete", "--force", b.id)
	}
	t.Logf("%d exchanges during %d creates, %d started", s.end(), n, started)
}

// Mount targets, mask targets and the working directory change between directories and links to the host while
// containers are made on them (CVE-2021-30465, CVE-2024-45310).
func TestSwapTargets(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t)
	pair := func(name, to string) [2]string {
		p := b.rootfs + "/" + name
		os.MkdirAll(p+"/file2", 0o755)
		os.Symlink(to, p+"-link")
		return [2]string{p, p + "-link"}
	}
	for i, dest := range []string{"/race/etc/new", "/race/a/b/c", "/race/file2", "/race", "/race/x", "/up/made/here"} {
		b.mount(dest, "tmpfs", fmt.Sprint("t", i))
	}
	vol := t.TempDir()
	b.mount("/vol", "bind", vol, "bind")
	b.mount("/vol/deep/er", "tmpfs", "tmpfs", "tmpcopyup")
	os.MkdirAll(vol+"/deep/er", 0o777)
	os.MkdirAll(b.rootfs+"/vol", 0o755)
	os.Symlink(w.dir, vol+"/deep-link")
	b.write("secret", secret)
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret", "/race/file", "/race/etc", "/up/dir")
	b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/race/a", "/up/etc")
	b.spec.Process.Cwd = "/race/cwd/x"
	race(t, b, func(s *seen.Reach) {
		b.confined(s)
		if !strings.HasPrefix(s.Cwd, "/") {
			t.Errorf("working directory %s", s.Cwd)
		}
		w.check()
	}, pair("race", w.dir), pair("up", "../../../../../../../.."+w.dir), [2]string{vol + "/deep", vol + "/deep-link"})
	w.check()
}

// The places of the kernel's own file systems are exchanged with directories of the image's, where masks would be harmless,
// and with links to where procfs could be had without them (CVE-2023-27561, CVE-2025-52881).
func TestSwapKernel(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t)
	for _, d := range []string{"decoy/sys/kernel", "decoy/irq", "decoy/firmware"} {
		os.MkdirAll(b.rootfs+"/"+d, 0o777)
	}
	for _, f := range []string{"kcore", "keys", "timer_list", "sysrq-trigger", "sys/kernel/core_pattern", "secret"} {
		b.write("decoy/"+f, "fake")
	}
	b.write("secret", secret)
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret")
	os.Symlink("/decoy", b.rootfs+"/proc-link")
	os.Symlink("/decoy", b.rootfs+"/sys-link")
	os.Symlink("/etc", b.rootfs+"/dev-link")
	race(t, b, func(s *seen.Reach) {
		for p, how := range s.Access { // what is called a procfs has to be confined; what is none may be anything
			if s.ProcIsProc && strings.HasPrefix(p, "/proc") && strings.Contains(strings.Fields(how + " x")[0], "w") && !strings.HasSuffix(how, " 1:3") {
				t.Errorf("%s: %s", p, how)
			}
		}
		for _, m := range s.Mounts { // and one that ended up elsewhere is a hole
			if m.Type == "proc" && !strings.HasPrefix(m.At, "/proc") {
				t.Errorf("a procfs at %s: %+v", m.At, m)
			}
		}
	}, [2]string{b.rootfs + "/proc", b.rootfs + "/proc-link"}, [2]string{b.rootfs + "/sys", b.rootfs + "/sys-link"}, [2]string{b.rootfs + "/dev", b.rootfs + "/dev-link"})
	w.check()
}

// The image's own device nodes change while they are used: the null device that masks are made of (CVE-2025-31133), the
// console and the pty (CVE-2025-52565).
func TestSwapDevices(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t).without("/dev", "/dev/pts", "/dev/shm", "/dev/mqueue")
	b.write("secret", secret)
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret")
	var pairs [][2]string
	for _, n := range []string{"null", "zero", "console", "tty"} {
		p := b.rootfs + "/dev/" + n
		number, device := map[string]uint64{"null": unix.Mkdev(1, 3), "zero": unix.Mkdev(1, 5), "tty": unix.Mkdev(5, 0)}[n]
		if !device {
			os.WriteFile(p, nil, 0o666)
		} else if err := unix.Mknod(p, unix.S_IFCHR|0o666, int(number)); err != nil {
			t.Fatal(err)
		}
		os.Symlink("/proc/sys/vm/laptop_mode", p+"-link")
		pairs = append(pairs, [2]string{p, p + "-link"})
	}
	race(t, b, func(s *seen.Reach) {
		b.confined(s)
		if text, _ := os.ReadFile(b.rootfs + "/secret"); string(text) != secret {
			t.Errorf("masked file became %q", text)
		}
	}, pairs...)
	w.check()
}

// What a tmpfs is filled with is the image's: links stay links, devices and FIFOs are left out, depth has an end, and
// nothing is followed to the host, be it swapped meanwhile.
func TestCopyUp(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t)
	dir := b.rootfs + "/up"
	os.MkdirAll(dir+"/"+strings.Repeat("d/", 300), 0o755)
	os.Symlink(w.dir, dir+"/link")
	os.Symlink(w.dir+"/secret", dir+"/secret")
	unix.Mkfifo(dir+"/fifo", 0o666)
	unix.Mknod(dir+"/zero", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 5)))
	b.mount("/up", "tmpfs", "tmpfs", "tmpcopyup")
	if s := b.report("/up/link/secret", "/up/secret"); s != nil && (s.Access["/up/secret"] != "absent" || s.Access["/up/link/secret"] != "absent") {
		t.Errorf("the host's files came along: %v", s.Access)
	}
	os.RemoveAll(dir + "/d")
	os.MkdirAll(dir+"/sub", 0o755)
	os.WriteFile(dir+"/sub/secret", []byte("own"), 0o644)
	os.Symlink(w.dir, b.rootfs+"/sub-link")
	os.WriteFile(dir+"/plain", []byte("own"), 0o644)
	os.Symlink(w.dir+"/secret", b.rootfs+"/plain-link")
	b.spec.Process.Args = []string{"/probe", "report", "/up/sub/secret"}
	race(t, b, func(*seen.Reach) {}, [2]string{dir + "/sub", b.rootfs + "/sub-link"}, [2]string{dir + "/plain", b.rootfs + "/plain-link"})
	w.check()
	// by a link over procfs: what is read there later must be the kernel's
	b = newBox(t)
	os.Symlink("/proc", b.rootfs+"/over")
	b.mount("/over", "tmpfs", "tmpfs", "tmpcopyup")
	if s := b.report(); s != nil && !s.ProcIsProc {
		t.Error("a copy of procfs covers procfs")
	}
	filepath.WalkDir(w.dir, func(p string, d os.DirEntry, err error) error { return err })
}
