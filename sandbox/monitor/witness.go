package monitor

import (
	"context"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// witnessPause is how often a witness looks whether it is to go on waiting.
const witnessPause = 50 * time.Millisecond

// Witness can tell how a process below a monitor ended although the monitor was killed before it could: by a pidfd, whose
// ioctl PIDFD_GET_INFO says so from Linux 6.15 on, once the process is reaped by whom it was orphaned to (linux/pidfd.h). It
// knows nothing of a process that had ended before it was asked to look.
type Witness struct{ pidfd *os.File }

// Watch opens a witness of a process that a monitor said is its child. It returns nil where that is not so any more and
// where the kernel knows no pidfds that answer questions (before 6.13): who has none has to live without an exit code.
func (m *Monitor) Watch(pid int) *Witness {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	w := &Witness{os.NewFile(uintptr(fd), "pidfd")}
	info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_PID}
	// The number may be another process's by now; a child of the monitor it is not then, unless its end is told as well.
	if err := unix.IoctlPidfdInfo(fd, &info); err != nil || int(info.Ppid) != m.pid {
		w.Close()
		return nil
	}
	return w
}

// Close gives the descriptor back. A nil witness may be closed and asked.
func (w *Witness) Close() {
	if w != nil {
		w.pidfd.Close()
	}
}

// Ended reports whether the process has ended, reaped or not.
func (w *Witness) Ended() bool { return w != nil && w.poll(0)&unix.POLLIN != 0 }

// Exit waits until the process is reaped and returns how it ended, without its time, which the kernel does not keep; false when
// that can't be known or ctx ends.
func (w *Witness) Exit(ctx context.Context) (x wire.Exit, ok bool) {
	if w == nil {
		return x, false
	}
	for ctx.Err() == nil {
		events := w.poll(witnessPause)
		if events&^unix.POLLIN == 0 {
			if events != 0 { // a zombie: poll returns at once
				time.Sleep(time.Millisecond)
			}
			continue
		}
		info := unix.PidfdInfo{Mask: unix.PIDFD_INFO_EXIT}
		err := w.do(func(fd int) error { return unix.IoctlPidfdInfo(fd, &info) })
		if err != nil || info.Mask&unix.PIDFD_INFO_EXIT == 0 {
			return x, false
		}
		ws := syscall.WaitStatus(info.Exit_code)
		if ws.Signaled() {
			x.Signal = int(ws.Signal())
			x.Code = 128 + x.Signal
		} else {
			x.Code = ws.ExitStatus()
		}
		return x, true
	}
	return x, false
}

// poll asks for what poll(2) says of a pidfd: POLLIN from the end on, POLLHUP when it is reaped as well (6.9).
func (w *Witness) poll(wait time.Duration) int16 {
	fds := []unix.PollFd{{Events: unix.POLLIN}}
	err := w.do(func(fd int) error {
		fds[0].Fd = int32(fd)
		_, err := unix.Poll(fds, int(wait/time.Millisecond))
		return err
	})
	if err == unix.EINTR {
		return 0
	}
	if err != nil {
		return unix.POLLNVAL
	}
	return fds[0].Revents
}

// do calls f with the descriptor, which stays open as long.
func (w *Witness) do(f func(fd int) error) error {
	c, err := w.pidfd.SyscallConn()
	if err != nil {
		return err
	}
	var ferr error
	if err := c.Control(func(fd uintptr) { ferr = f(int(fd)) }); err != nil {
		return err
	}
	return ferr
}
