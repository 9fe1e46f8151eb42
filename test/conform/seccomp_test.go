package conform_test

import (
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// deny is a profile that allows all but some system calls.
func deny(action specs.LinuxSeccompAction, errno *uint, calls ...string) *specs.LinuxSeccomp {
	return &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64},
		Syscalls: []specs.LinuxSyscall{{Names: calls, Action: action, ErrnoRet: errno}}}
}

// config-linux.md, "Seccomp": what a call gets.
func TestSeccompErrno(t *testing.T) {
	errno := uint(unix.ENOTSUP)
	for name, c := range map[string]struct {
		profile *specs.LinuxSeccomp
		want    string
	}{
		"default errno": {deny(specs.ActErrno, nil, "mkdir", "mkdirat"), "EPERM"},
		"errnoRet":      {deny(specs.ActErrno, &errno, "mkdir", "mkdirat"), "ENOTSUP"},
		"log":           {deny(specs.ActLog, nil, "mkdir", "mkdirat"), "ok"},
		"trace":         {deny(specs.ActTrace, nil, "mkdir", "mkdirat"), "ENOSYS"}, // nobody traces
		"unknown names": {deny(specs.ActErrno, nil, "no_such_call", "mkdir", "mkdirat"), "EPERM"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.spec.Linux.Seccomp = c.profile
			b.tries(map[string]string{"mkdir:/tmp/x": c.want, "write:/tmp/y": "ok"})
		})
	}
}

func TestSeccompKill(t *testing.T) {
	for action, want := range map[specs.LinuxSeccompAction]int{specs.ActKillProcess: 128 + int(unix.SIGSYS), specs.ActTrap: 2} { // Go programs end by 2 on a SIGSYS
		t.Run(string(action), func(t *testing.T) {
			b := newBox(t, "try", "mkdir:/tmp/x")
			b.spec.Linux.Seccomp = deny(action, nil, "mkdir", "mkdirat")
			equal(t, "exit code", b.run(), want)
		})
	}
}

// Rules on arguments: all of one rule must hold, one rule of several has to.
func TestSeccompArguments(t *testing.T) {
	b := newBox(t)
	errno := uint(unix.ENOTSUP)
	rule := func(value uint64, op specs.LinuxSeccompOperator, two uint64) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: []string{"personality"}, Action: specs.ActErrno, ErrnoRet: &errno,
			Args: []specs.LinuxSeccompArg{{Index: 0, Value: value, ValueTwo: two, Op: op}}}
	}
	b.spec.Linux.Seccomp = deny(specs.ActErrno, nil, "mkdir", "mkdirat")
	b.spec.Linux.Seccomp.Syscalls = append(b.spec.Linux.Seccomp.Syscalls, rule(8, specs.OpEqualTo, 0), rule(0x40000, specs.OpMaskedEqual, 0x40000))
	nr := itoa(unix.SYS_PERSONALITY)
	b.tries(map[string]string{"syscall:" + nr + ",8": "ENOTSUP", "syscall:" + nr + ",0": "ok", "syscall:" + nr + ",262145": "ENOTSUP", "mkdir:/tmp/x": "EPERM"})
}

// A profile that lists what is allowed, with and without no_new_privs.
func TestSeccompWithPrivileges(t *testing.T) {
	for _, nnp := range []bool{true, false} {
		t.Run(map[bool]string{true: "no new privileges", false: "new privileges"}[nnp], func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Process.NoNewPrivileges = nnp
			b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
			b.spec.Linux.Seccomp = deny(specs.ActErrno, nil, "mkdir", "mkdirat")
			s := b.sees()
			equal(t, "Seccomp", s.Status["Seccomp"], "2")
			equal(t, "NoNewPrivs", s.Status["NoNewPrivs"], map[bool]string{true: "1", false: "0"}[nnp])
		})
	}
}

func TestSeccompErrors(t *testing.T) {
	for name, change := range map[string]func(*specs.LinuxSeccomp){
		"action":       func(s *specs.LinuxSeccomp) { s.DefaultAction = "SCMP_ACT_NONE" },
		"architecture": func(s *specs.LinuxSeccomp) { s.Architectures = []specs.Arch{"SCMP_ARCH_NONE"} },
		"operator": func(s *specs.LinuxSeccomp) {
			s.Syscalls[0].Args = []specs.LinuxSeccompArg{{Index: 0, Op: "SCMP_CMP_NONE"}}
		},
		"flag":     func(s *specs.LinuxSeccomp) { s.Flags = []specs.LinuxSeccompFlag{"SECCOMP_FILTER_FLAG_NONE"} },
		"no names": func(s *specs.LinuxSeccomp) { s.Syscalls[0].Names = nil },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Linux.Seccomp = deny(specs.ActErrno, nil, "mkdir")
			change(b.spec.Linux.Seccomp)
			r := b.begin()
			if r.code == 0 || strings.TrimSpace(r.err) == "" {
				t.Errorf("%s", r)
			}
		})
	}
}
