package hold

import (
	"syscall"
	"unsafe"
)

// kernelSigaction is the argument of rt_sigaction(2); the kernel's, not libc's.
type kernelSigaction struct {
	handler  uintptr
	flags    uint64
	restorer uintptr
	mask     uint64
}

const (
	sigDefault = 0
	sigIgnore  = 1
	sigLast    = 64
)

// resetSignals takes away the handlers that the Go runtime has installed, so that the kernel keeps signals from inside away
// from an init, and ignores SIGCHLD. The runtime's own use (preemption by SIGURG, profiling) does without.
func resetSignals() {
	for sig := 1; sig <= sigLast; sig++ {
		act := kernelSigaction{handler: sigDefault}
		if syscall.Signal(sig) == syscall.SIGCHLD {
			act.handler = sigIgnore
		}
		// SIGKILL and SIGSTOP answer EINVAL.
		syscall.RawSyscall6(syscall.SYS_RT_SIGACTION, uintptr(sig), uintptr(unsafe.Pointer(&act)), 0, 8, 0, 0)
	}
}
