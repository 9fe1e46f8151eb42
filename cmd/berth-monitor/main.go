// Command berth-monitor is the parent of one pod's processes; see package loop. The same binary is the process that makes a
// pod's namespaces and, where a pod shares one PID namespace, that namespace's first process; see package hold.
//
// It is started by the daemon with the listening socket and the locked lock file as descriptors 3 and 4:
//
//	berth-monitor [--oom-score-adj=N] [DIR]
//
// DIR is for the reader of ps only.
package main

import (
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor/loop"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/ns/hold"
)

func main() {
	if hold.Is(os.Args) {
		os.Exit(hold.Main())
	}
	if err := run(); err != nil {
		os.Stderr.WriteString("berth-monitor: " + err.Error() + "\n")
		os.Exit(1)
	}
}

func run() error {
	for _, arg := range os.Args[1:] {
		const flag = "--oom-score-adj="
		if len(arg) > len(flag) && arg[:len(flag)] == flag {
			// Lowering needs CAP_SYS_RESOURCE; without it the monitor is as mortal as the daemon.
			os.WriteFile("/proc/self/oom_score_adj", []byte(arg[len(flag):]), 0)
		}
	}
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return err
	}
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGHUP)
	// ends with the process
	go func() {
		for s := range c {
			syscall.Write(ends[1], []byte{byte(s.(syscall.Signal))})
		}
	}()
	syscall.Umask(0o022)
	return loop.Run(loop.Options{Listen: wire.ListenFD, Lock: wire.LockFD, Signals: ends[0], Grace: 5 * time.Second})
}
