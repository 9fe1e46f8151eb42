package compile

import (
	"strconv"
	"strings"
	"syscall"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// The real-time signals as every container tool counts them: the C library keeps
// the kernel's first two, 32 and 33, to itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// wire gives the signal for each number of the CRI's enum from 1 up to the
// real-time ones. The numbers are the contract: names of values changed between
// versions of the API. Never written.
var wire = [...]syscall.Signal{
	1: syscall.SIGABRT, 2: syscall.SIGALRM, 3: syscall.SIGBUS, 4: syscall.SIGCHLD, 5: syscall.SIGCHLD,
	6: syscall.SIGCONT, 7: syscall.SIGFPE, 8: syscall.SIGHUP, 9: syscall.SIGILL, 10: syscall.SIGINT,
	11: syscall.SIGIO, 12: syscall.SIGABRT, 13: syscall.SIGKILL, 14: syscall.SIGPIPE, 15: syscall.SIGIO,
	16: syscall.SIGPROF, 17: syscall.SIGPWR, 18: syscall.SIGQUIT, 19: syscall.SIGSEGV, 20: syscall.SIGSTKFLT,
	21: syscall.SIGSTOP, 22: syscall.SIGSYS, 23: syscall.SIGTERM, 24: syscall.SIGTRAP, 25: syscall.SIGTSTP,
	26: syscall.SIGTTIN, 27: syscall.SIGTTOU, 28: syscall.SIGURG, 29: syscall.SIGUSR1, 30: syscall.SIGUSR2,
	31: syscall.SIGVTALRM, 32: syscall.SIGWINCH, 33: syscall.SIGXCPU, 34: syscall.SIGXFSZ,
}

// signalNames are the names that images use, by the same numbers. Never written.
var signalNames = [len(wire)]string{
	1: "ABRT", 2: "ALRM", 3: "BUS", 4: "CHLD", 5: "CLD", 6: "CONT", 7: "FPE", 8: "HUP", 9: "ILL", 10: "INT",
	11: "IO", 12: "IOT", 13: "KILL", 14: "PIPE", 15: "POLL", 16: "PROF", 17: "PWR", 18: "QUIT", 19: "SEGV", 20: "STKFLT",
	21: "STOP", 22: "SYS", 23: "TERM", 24: "TRAP", 25: "TSTP", 26: "TTIN", 27: "TTOU", 28: "URG", 29: "USR1", 30: "USR2",
	31: "VTALRM", 32: "WINCH", 33: "XCPU", 34: "XFSZ",
}

// fromWire is the signal of an enum value; 0 for none and for unknown ones. From
// 35 on the values are SIGRTMIN … SIGRTMIN+15, SIGRTMAX-14 … SIGRTMAX: 34 … 64.
func fromWire(s rt.Signal) syscall.Signal {
	switch n := int(s); {
	case n > 0 && n < len(wire):
		return wire[n]
	case n >= len(wire) && n <= 65:
		return syscall.Signal(n - len(wire) + sigRTMin)
	}
	return 0
}

// WireSignal is the CRI's value for a signal, SIGNAL_RUNTIME_DEFAULT when it has none.
func WireSignal(sig syscall.Signal) rt.Signal {
	for n := rt.Signal(1); sig > 0 && n <= 65; n++ {
		if fromWire(n) == sig {
			return n
		}
	}
	return 0
}

func checkStopSignal(s rt.Signal) error {
	if s != 0 && fromWire(s) == 0 {
		return invalid("stop_signal", "unknown signal %d", int32(s))
	}
	return nil
}

// StopSignal is what asks a container to end: the request's, else the image's,
// else SIGTERM. What an image says and nobody understands counts as nothing.
func StopSignal(cc *rt.ContainerConfig, img ImageConfig) syscall.Signal {
	if s := fromWire(cc.GetStopSignal()); s != 0 {
		return s
	}
	if s := parseSignal(img.StopSignal); s != 0 {
		return s
	}
	return syscall.SIGTERM
}

// parseSignal reads "SIGTERM", "term", "15", "SIGRTMIN+3", "RTMAX-2"; 0 for others.
func parseSignal(s string) syscall.Signal {
	s = strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(s)), "SIG")
	if n, err := strconv.ParseUint(s, 10, 8); err == nil {
		if n > sigRTMax {
			return 0
		}
		return syscall.Signal(n)
	}
	if rest, ok := strings.CutPrefix(s, "RTMIN"); ok {
		return realTime(sigRTMin, rest)
	}
	if rest, ok := strings.CutPrefix(s, "RTMAX"); ok {
		return realTime(sigRTMax, rest)
	}
	for n, name := range signalNames {
		if name == s && s != "" {
			return wire[n]
		}
	}
	return 0
}

// realTime reads "", "+3" or "-2" after the name of the first or last real-time signal.
func realTime(base int, offset string) syscall.Signal {
	n := 0
	if offset != "" {
		if offset[0] != '+' && offset[0] != '-' {
			return 0
		}
		var err error
		if n, err = strconv.Atoi(offset); err != nil {
			return 0
		}
	}
	if s := base + n; s >= sigRTMin && s <= sigRTMax {
		return syscall.Signal(s)
	}
	return 0
}
