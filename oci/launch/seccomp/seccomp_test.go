package seccomp

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

func num(n uint) *uint { return &n }

func compile(t testing.TB, p *specs.LinuxSeccomp) Program {
	t.Helper()
	prog, err := compileFor(p, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	return prog
}

// TestVerdicts states the answers the package comment promises.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	const allow, eperm = unix.SECCOMP_RET_ALLOW, unix.SECCOMP_RET_ERRNO | ret(unix.EPERM)
	rule := func(action specs.LinuxSeccompAction, name string, args ...specs.LinuxSeccompArg) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{name}, Action: action, Args: args}
	}
	arg := func(index uint, op specs.LinuxSeccompOperator, v ...uint64) specs.LinuxSeccompArg {
		return specs.LinuxSeccompArg{Index: index, Op: op, Value: v[0], ValueTwo: append(v, 0)[1]}
	}
	x64 := func(nr uint32, args ...uint64) data {
		d := data{nr: nr, arch: unix.AUDIT_ARCH_X86_64}
		copy(d.args[:], args)
		return d
	}
	strict := specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{
		rule(specs.ActAllow, "read"),
		rule(specs.ActAllow, "no_such_call"),
		rule(specs.ActKillProcess, "ptrace"),
		rule(specs.ActAllow, "ptrace"),
		rule(specs.ActAllow, "socket", arg(0, specs.OpEqualTo, 1)),
		rule(specs.ActLog, "personality", arg(0, specs.OpEqualTo, 8), arg(0, specs.OpEqualTo, 1<<40)),
		rule(specs.ActAllow, "clone", arg(0, specs.OpMaskedEqual, 0x7E020000, 0)),
		{Names: []string{"clone3"}, Action: specs.ActErrno, ErrnoRet: num(38)},
		{Names: []string{"openat2"}, Action: specs.ActTrace, ErrnoRet: num(7)},
	}}
	x86 := strict
	x86.Architectures = []specs.Arch{specs.ArchX86, specs.ArchMIPS}
	open := specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{rule(specs.ActTrap, "write")}}
	for _, c := range []struct {
		name string
		p    *specs.LinuxSeccomp
		d    data
		want ret
	}{
		{"allowed", &strict, x64(0), allow},
		{"default", &strict, x64(1), eperm},
		{"first rule wins", &strict, x64(101), unix.SECCOMP_RET_KILL_PROCESS},
		{"argument matches", &strict, x64(41, 1), allow},
		{"argument does not match", &strict, x64(41, 2), eperm},
		{"upper half counts", &strict, x64(41, 1<<32+1), eperm},
		{"two conditions on one argument, first", &strict, x64(135, 8), unix.SECCOMP_RET_LOG},
		{"two conditions on one argument, second", &strict, x64(135, 1<<40), unix.SECCOMP_RET_LOG},
		{"two conditions on one argument, none", &strict, x64(135, 9), eperm},
		{"mask clear", &strict, x64(56, 0x11), allow},
		{"mask set", &strict, x64(56, 0x10000000), eperm},
		{"errnoRet", &strict, x64(435), noCall},
		{"trace data", &strict, x64(437), unix.SECCOMP_RET_TRACE | 7},
		{"newer than the profile", &strict, x64(438), noCall},
		{"skipped by a tracer", &strict, x64(1<<32 - 1), noCall},
		{"x32 not listed", &strict, x64(x32Bit), noCall},
		{"x86 not listed", &strict, data{nr: 3, arch: unix.AUDIT_ARCH_I386}, badArch},
		{"x86 listed", &x86, data{nr: 3, arch: unix.AUDIT_ARCH_I386}, allow},
		{"x86 newer", &x86, data{nr: 438, arch: unix.AUDIT_ARCH_I386}, noCall},
		{"x86 direct socket", &x86, data{nr: 359, arch: unix.AUDIT_ARCH_I386, args: [6]uint64{1}}, allow},
		{"x86 socketcall", &x86, data{nr: 102, arch: unix.AUDIT_ARCH_I386, args: [6]uint64{1}}, allow},
		{"x86 socketcall, another", &x86, data{nr: 102, arch: unix.AUDIT_ARCH_I386, args: [6]uint64{2}}, eperm},
		{"permissive default has no newest call", &open, x64(10000), allow},
		{"permissive default, refused", &open, x64(1), unix.SECCOMP_RET_TRAP},
		{"permissive default, x32 not listed", &open, x64(x32Bit), badArch},
		{"permissive default, skipped by a tracer", &open, x64(1<<32 - 1), allow},
	} {
		if got := eval(t, compile(t, c.p).Filter, c.d); got != c.want {
			t.Errorf("%s: %#x, want %#x", c.name, got, c.want)
		}
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	one := func(s specs.LinuxSyscall) *specs.LinuxSeccomp {
		return &specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: []specs.LinuxSyscall{s}}
	}
	for name, p := range map[string]*specs.LinuxSeccomp{
		"nil":             nil,
		"no action":       {},
		"default notify":  {DefaultAction: specs.ActNotify},
		"default errno":   {DefaultAction: specs.ActAllow, DefaultErrnoRet: num(1)},
		"architecture":    {DefaultAction: specs.ActAllow, Architectures: []specs.Arch{"SCMP_ARCH_VAX"}},
		"flag":            {DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NONE"}},
		"action":          one(specs.LinuxSyscall{Names: []string{"read"}, Action: "SCMP_ACT_ASK"}),
		"no names":        one(specs.LinuxSyscall{Action: specs.ActAllow}),
		"notify on write": one(specs.LinuxSyscall{Names: []string{"write"}, Action: specs.ActNotify}),
		"errno too large": one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActErrno, ErrnoRet: num(1 << 16)}),
		"errno of allow":  one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow, ErrnoRet: num(1)}),
		"index": one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Index: 6, Op: specs.OpEqualTo}}}),
		"operator": one(specs.LinuxSyscall{Names: []string{"read"}, Action: specs.ActAllow,
			Args: []specs.LinuxSeccompArg{{Op: "SCMP_CMP_ODD"}}}),
	} {
		if _, err := Compile(p); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFlags(t *testing.T) {
	t.Parallel()
	notify := specs.LinuxSyscall{Names: []string{"mount"}, Action: specs.ActNotify}
	for _, c := range []struct {
		p    specs.LinuxSeccomp
		want uint
	}{
		{specs.LinuxSeccomp{}, unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW},
		{specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{}}, 0},
		{specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagWaitKillableRecv}},
			unix.SECCOMP_FILTER_FLAG_LOG},
		{specs.LinuxSeccomp{Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv}, Syscalls: []specs.LinuxSyscall{notify}},
			unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER},
	} {
		c.p.DefaultAction = specs.ActAllow
		if got := compile(t, &c.p); got.Flags != c.want || got.Notify != (c.want&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0) {
			t.Errorf("flags of %v: %#x, notify %v; want %#x", c.p.Flags, got.Flags, got.Notify, c.want)
		}
	}
}

func TestEncode(t *testing.T) {
	t.Parallel()
	p := compile(t, mobyProfile(t))
	again := compile(t, mobyProfile(t))
	b := Encode(p)
	if !bytes.Equal(b, Encode(again)) {
		t.Error("two compilations of one profile differ")
	}
	got, err := Decode(b)
	if err != nil || !slices.Equal(got.Filter, p.Filter) || got.Flags != p.Flags || got.Notify != p.Notify {
		t.Errorf("Decode(Encode) differs: %v", err)
	}
	for n := range len(b) {
		if _, err := Decode(b[:n]); !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("%d of %d bytes decode: %v", n, len(b), err)
		}
	}
	if _, err := Decode(append(b, 0)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a byte too many: %v", err)
	}
	t.Logf("default profile: %d instructions, %d bytes", len(p.Filter), len(b))
}

// TestLoad puts a child under the default profile and asks it what it may do.
func TestLoad(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECCOMP_CHILD") != "" {
		child(t)
		return
	}
	cmd := exec.Command(os.Args[0], "-test.run=^TestLoad$", "-test.v")
	cmd.Env = append(os.Environ(), "SECCOMP_CHILD=1")
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "confined") {
		t.Errorf("%v: %s", err, out)
	}
	t.Logf("%s", out)
}

func child(t *testing.T) {
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	prog, err := Compile(mobyProfile(t))
	if err != nil {
		t.Fatal(err)
	}
	compiled := time.Now()
	fd, err := Load(prog)
	if err != nil || fd != -1 {
		t.Fatal(fd, err)
	}
	loaded := time.Now()
	if err := unix.Sethostname([]byte("no")); err != unix.EPERM {
		t.Errorf("sethostname: %v", err)
	}
	if _, _, e := unix.RawSyscall(unix.SYS_CLONE3, 0, 0, 0); e != unix.ENOSYS {
		t.Errorf("clone3: %v", e)
	}
	if _, _, e := unix.RawSyscall(600, 0, 0, 0); e != unix.ENOSYS {
		t.Errorf("call 600: %v", e)
	}
	if _, err := unix.Socket(unix.AF_VSOCK, unix.SOCK_STREAM, 0); err != unix.EPERM {
		t.Errorf("socket(AF_VSOCK): %v", err)
	}
	best := loaded.Sub(compiled)
	for range 20 {
		again := time.Now()
		if _, err := Load(prog); err != nil {
			t.Fatal(err)
		}
		best = min(best, time.Since(again))
	}
	t.Logf("confined: compiled in %v, loaded in %v, at best %v", compiled.Sub(begin), loaded.Sub(compiled), best)
}

// TestListener loads a filter with SCMP_ACT_NOTIFY.
func TestListener(t *testing.T) {
	t.Parallel()
	if os.Getenv("SECCOMP_LISTENER") == "" {
		cmd := exec.Command(os.Args[0], "-test.run=^TestListener$")
		cmd.Env = append(os.Environ(), "SECCOMP_LISTENER=1")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Errorf("%v: %s", err, out)
		}
		return
	}
	runtime.LockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		t.Fatal(err)
	}
	prog := compile(t, &specs.LinuxSeccomp{DefaultAction: specs.ActAllow,
		Syscalls: []specs.LinuxSyscall{{Names: []string{"mount"}, Action: specs.ActNotify}}})
	fd, err := Load(prog)
	if err != nil || fd < 0 {
		t.Fatal(fd, err)
	}
	if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err != nil || flags&unix.FD_CLOEXEC == 0 {
		t.Errorf("listener flags %#x, %v", flags, err)
	}
	unix.Close(fd)
}

func BenchmarkCompileDefault(b *testing.B) {
	p := mobyProfile(b)
	for b.Loop() {
		compile(b, p)
	}
}
