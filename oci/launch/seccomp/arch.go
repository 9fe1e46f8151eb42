package seccomp

import (
	"fmt"
	"io/fs"
	"runtime"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// call is a system call of one architecture.
type call struct {
	name string
	nr   uint32
}

// x32Bit is set in the numbers of x32 calls (asm/unistd.h), which share
// x86-64's audit architecture.
const x32Bit = 0x40000000

// arch is what the filter needs to know of an architecture.
type arch struct {
	audit uint32
	names []call // sorted by name
	wide  bool   // arguments have 64 bits
	mux   bool   // has socketcall and ipc
}

// archOf looks an architecture up; known is false for names the specification
// does not have. One without a table can't occur on a machine this compiler
// serves, so leaving it out of a filter changes nothing there.
func archOf(name specs.Arch) (a *arch, known bool) {
	switch name {
	case specs.ArchX86_64:
		return &arch{audit: unix.AUDIT_ARCH_X86_64, names: namesX8664[:], wide: true}, true
	case specs.ArchX32:
		return &arch{audit: unix.AUDIT_ARCH_X86_64, names: namesX32[:]}, true
	case specs.ArchX86:
		return &arch{audit: unix.AUDIT_ARCH_I386, names: namesX86[:], mux: true}, true
	case specs.ArchAARCH64:
		return &arch{audit: unix.AUDIT_ARCH_AARCH64, names: namesAarch64[:], wide: true}, true
	case specs.ArchARM:
		return &arch{audit: unix.AUDIT_ARCH_ARM, names: namesArm[:]}, true
	case specs.ArchMIPS, specs.ArchMIPS64, specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64,
		specs.ArchMIPSEL64N32, specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchS390, specs.ArchS390X,
		specs.ArchPARISC, specs.ArchPARISC64, specs.ArchRISCV64, specs.ArchLOONGARCH64, specs.ArchM68K,
		specs.ArchSH, specs.ArchSHEB:
		return nil, true
	}
	return nil, false
}

// native is the architecture of the machine this runs on.
func native() (specs.Arch, error) {
	switch runtime.GOARCH {
	case "amd64":
		return specs.ArchX86_64, nil
	case "arm64":
		return specs.ArchAARCH64, nil
	}
	return "", fmt.Errorf("seccomp on %s: %w", runtime.GOARCH, fs.ErrInvalid)
}

// lookup finds the number of a call.
func (a *arch) lookup(name string) (uint32, bool) {
	i, ok := slices.BinarySearchFunc(a.names, name, func(c call, n string) int { return strings.Compare(c.name, n) })
	if !ok {
		return 0, false
	}
	return a.names[i].nr, true
}

// muxed finds the call of 32-bit x86 that carries name as its argument 0:
// socketcall (linux/net.h) or ipc (linux/ipc.h).
func muxed(name string) (by string, number uint64, ok bool) {
	sockets := [...]string{1: "socket", "bind", "connect", "listen", "accept", "getsockname", "getpeername", "socketpair",
		"send", "recv", "sendto", "recvfrom", "shutdown", "setsockopt", "getsockopt", "sendmsg", "recvmsg", "accept4",
		"recvmmsg", "sendmmsg"}
	if i := slices.Index(sockets[:], name); i > 0 {
		return "socketcall", uint64(i), true
	}
	ipcs := [...]string{1: "semop", 2: "semget", 3: "semctl", 4: "semtimedop", 11: "msgsnd", 12: "msgrcv", 13: "msgget",
		14: "msgctl", 21: "shmat", 22: "shmdt", 23: "shmget", 24: "shmctl"}
	if i := slices.Index(ipcs[:], name); i > 0 && name != "" {
		return "ipc", uint64(i), true
	}
	return "", 0, false
}
