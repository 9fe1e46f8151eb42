//go:build amd64 || arm64

package loop

import (
	"syscall"
	"unsafe"
)

// signalFD is where the signal handler writes; the number stands in the assembly too.
const signalFD = 5

// handlers gives the addresses of the handler and of the code it returns to.
func handlers() (handler, restorer uintptr)

// sigaction is the kernel's argument of rt_sigaction(2).
type sigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

// Flags of sigaction(2). SA_ONSTACK: the Go runtime gives each thread a stack for signals. SA_RESTART: the system calls of
// other threads of the runtime go on.
const (
	saOnStack  = 0x08000000
	saRestart  = 0x10000000
	saRestorer = 0x04000000
)

// Signals makes each SIGCHLD, SIGTERM and SIGHUP come as a byte from a pipe, and returns its read end.
//
// A signalfd would be the obvious thing, but the Go runtime keeps SIGCHLD unblocked in all its threads, and a blocked signal
// would be blocked in every child as well. Package os/signal does the same as this with a goroutine, two threads and 0.2 MB
// more for each pod. So the handler is the oldest trick there is: it writes the signal's number into a pipe, in a few lines of
// assembly, for a function compiled from Go can't run as a handler. At exec handlers become the default again: children start clean.
//
// Descriptor 5 is taken, whatever it was.
func Signals() (int, error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return -1, failure("pipe for signals", err)
	}
	if ends[0] == signalFD {
		fd, err := syscall.Dup(ends[0])
		if err != nil {
			return -1, failure("pipe for signals", err)
		}
		ends[0] = fd
	}
	if ends[1] != signalFD {
		if err := syscall.Dup3(ends[1], signalFD, syscall.O_CLOEXEC); err != nil {
			return -1, failure("pipe for signals", err)
		}
		syscall.Close(ends[1])
	}
	act := sigaction{flags: saOnStack | saRestart}
	if act.handler, act.restorer = handlers(); act.restorer != 0 {
		act.flags |= saRestorer
	}
	for _, sig := range [...]syscall.Signal{syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGHUP} {
		_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
		if e != 0 {
			return -1, failure("signal handler", e)
		}
	}
	heed()
	return ends[0], nil
}

// heed gives every signal that we were started ignoring its default action again. What is ignored stays so in all
// children, and a container must not depend on who started the daemon: nohup(1) ignores SIGHUP, and posix_spawn(3) of
// glibc ignores signal 32 for good.
func heed() {
	const ignored = 1 // SIG_IGN
	for sig := uintptr(1); sig <= 64; sig++ {
		var old, def sigaction
		_, _, e := syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, 0, uintptr(unsafe.Pointer(&old)), 8, 0, 0)
		if e == 0 && old.handler == ignored {
			syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, sig, uintptr(unsafe.Pointer(&def)), 0, 8, 0, 0)
		}
	}
}
