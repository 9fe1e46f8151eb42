package attack_test

import (
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func errnoOf(n uint) *uint { return &n }

// A profile that refuses a call refuses it in each of the machine's ways of calling: a rule for x86-64 must not be a gap
// for int 0x80 and x32, whichever architectures the profile names.
func TestOtherCalls(t *testing.T) {
	t.Parallel()
	for name, archs := range map[string][]specs.Arch{"own": {specs.ArchX86_64}, "none": nil, "all": {specs.ArchX86_64, specs.ArchX86, specs.ArchX32}} {
		for _, call := range []string{"x86-64", "x86", "x86-at", "x32"} {
			t.Run(name+"-"+call, func(t *testing.T) {
				b := newBox(t, "calls", call)
				b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: archs,
					Syscalls: []specs.LinuxSyscall{{Names: []string{"mkdir", "mkdirat"}, Action: specs.ActErrno, ErrnoRet: errnoOf(1)}}}
				b.config()
				r := b.oci("run", "--bundle", b.bundle, b.id) // the payload may be killed
				if _, err := os.Stat(b.rootfs + "/made-" + call); err == nil || strings.Contains(r.out, "made") {
					t.Errorf("made a directory: %s", r.out)
				}
			})
		}
	}
	for _, call := range []string{"x86-64", "x86"} { // that the payload can do it at all
		b := newBox(t, "calls", call)
		if r := b.run(); !strings.Contains(r.out, "made") {
			t.Logf("without a profile %s is refused too: %q", call, r.out)
		}
	}
}

// A container without a terminal of its own that is handed the caller's can't type into it (TIOCSTI): it is in another
// session.
func TestTypeAhead(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, way := range []string{"run", "exec"} {
		master, slave := pty(t)
		defer master.Close()
		defer slave.Close()
		if direct := typed(t, slave); direct != "tiocsti: 0" {
			t.Skipf("this kernel lets nobody: %s", direct)
		}
		b := newBox(t, "tiocsti")
		args := []string{"run", "--bundle", b.bundle, b.id}
		if way == "exec" {
			b.spec.Process.Args = []string{"/probe", "sleep"}
			if _, ok := b.start(); !ok {
				t.Fatal("no container")
			}
			args = []string{"exec", b.id, "/probe", "tiocsti"}
		}
		b.config()
		if r := b.ociWith(slave, nil, args...); strings.Contains(r.out, "tiocsti: 0") {
			t.Errorf("%s: typed into the caller's terminal", way)
		}
	}
}

func pty(t *testing.T) (master, slave *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	fd, _, e := unix.Syscall(unix.SYS_IOCTL, master.Fd(), unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
	if e != 0 {
		t.Fatal(e)
	}
	return master, os.NewFile(fd, "slave")
}

// typed is the payload outside of any container, with the terminal as its own.
func typed(t *testing.T, slave *os.File) string {
	cmd := exec.Command(bin+"/probe", "tiocsti")
	cmd.Stdin = slave
	cmd.SysProcAttr = &unix.SysProcAttr{Setsid: true, Setctty: true, Ctty: 0}
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}
