// Command berth-monitor is the parent of one pod's processes; see package loop. The same binary is the process that makes a
// pod's namespaces, where a pod shares one PID namespace that namespace's first process, and what mounts the root file system
// for a foreign runtime; see package hold.
//
// It is started by the daemon with the listening socket and the locked lock file as descriptors 3 and 4:
//
//	berth-monitor [--oom-score-adj=N] [DIR]
//
// DIR is for the reader of ps only. It imports neither os nor fmt: one runs for every pod of a node.
//
// With one P there is no need to know the CPU limit of its cgroup, nor to keep the files open in which it stands.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/loop"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/ns/hold"
)

func main() {
	args := arguments()
	if hold.Is(args) {
		syscall.Exit(hold.Main(args))
	}
	if err := run(args); err != nil {
		syscall.Write(2, []byte("berth-monitor: "+err.Error()+"\n"))
		syscall.Exit(1)
	}
}

func run(args []string) error {
	for _, arg := range args {
		const flag = "--oom-score-adj="
		if len(arg) > len(flag) && arg[:len(flag)] == flag {
			// Lowering needs CAP_SYS_RESOURCE; without it the monitor is as mortal as the daemon.
			if fd, err := syscall.Open("/proc/self/oom_score_adj", syscall.O_WRONLY|syscall.O_CLOEXEC, 0); err == nil {
				syscall.Write(fd, []byte(arg[len(flag):]))
				syscall.Close(fd)
			}
		}
	}
	// Before descriptor 5 is taken: one that was not handed over is an error, not a surprise.
	for _, fd := range [...]int{wire.ListenFD, wire.LockFD} {
		if _, err := unix.FcntlInt(uintptr(fd), unix.F_SETFD, unix.FD_CLOEXEC); err != nil {
			return err
		}
	}
	// What the daemon has inherited from whoever started it goes no further. Linux 5.9.
	unix.CloseRange(wire.LockFD+1, ^uint(0)>>33, 0)
	signals, err := loop.Signals()
	if err != nil {
		return err
	}
	syscall.Umask(0o022)
	return loop.Run(loop.Options{Listen: wire.ListenFD, Lock: wire.LockFD, Signals: signals, Grace: 5 * time.Second})
}

// arguments reads the process's arguments, as os.Args would have them.
func arguments() []string {
	fd, err := syscall.Open("/proc/self/cmdline", syscall.O_RDONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return nil
	}
	defer syscall.Close(fd)
	var buf [8192]byte
	n, _ := syscall.Read(fd, buf[:])
	var args []string
	start := 0
	for i := range max(n, 0) {
		if buf[i] == 0 {
			args = append(args, string(buf[start:i]))
			start = i + 1
		}
	}
	return args
}
