package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/signal"
	"time"

	"golang.org/x/sys/unix"
)

// terminal shows a container's terminal on the caller's own, for run and exec in the foreground without a console socket.
type terminal struct {
	mine, theirs *os.File // ends of the socket over which the pty's master comes
	master       *os.File
	host         *os.File // the caller's terminal; nil when there is none
	old          *unix.Termios
	winch        chan os.Signal
	done         chan struct{} // closed when all output has been copied
}

func newTerminal() (*terminal, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	return &terminal{mine: os.NewFile(uintptr(pair[0]), "console"), theirs: os.NewFile(uintptr(pair[1]), "console")}, nil
}

// show receives the master and copies between it and the standard streams until close.
func (t *terminal) show() error {
	if err := t.receive(); err != nil {
		return err
	}
	// Lines end in LF for whoever reads standard output, terminal or pipe, as with runc.
	if err := change(t.master, func(s *unix.Termios) { s.Oflag &^= unix.ONLCR }); err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.host = hostTerminal()
	if t.host != nil {
		if err := t.raw(); err != nil {
			return err
		}
	}
	t.done = make(chan struct{})
	// ends with the process: standard input cannot be waited for and given up
	go io.Copy(t.master, os.Stdin)
	// ends when the last one who has the other side open is gone (EIO), or at the deadline that close sets
	go func() { io.Copy(os.Stdout, t.master); close(t.done) }()
	return nil
}

func (t *terminal) receive() error {
	t.theirs.Close()
	oob := make([]byte, unix.CmsgSpace(4))
	_, n, _, _, err := unix.Recvmsg(int(t.mine.Fd()), make([]byte, 64), oob, unix.MSG_CMSG_CLOEXEC)
	if err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	cs, err := unix.ParseSocketControlMessage(oob[:n])
	if err != nil || len(cs) != 1 {
		return fmt.Errorf("receive terminal: no descriptor came: %w", fs.ErrInvalid)
	}
	fds, err := unix.ParseUnixRights(&cs[0])
	if err != nil || len(fds) != 1 {
		return fmt.Errorf("receive terminal: %d descriptors came: %w", len(fds), fs.ErrInvalid)
	}
	if err := unix.SetNonblock(fds[0], true); err != nil {
		return fmt.Errorf("receive terminal: %w", err)
	}
	t.master = os.NewFile(uintptr(fds[0]), "terminal")
	return nil
}

// hostTerminal is the first of the standard streams that is a terminal, or the controlling one.
func hostTerminal() *os.File {
	for _, f := range [...]*os.File{os.Stderr, os.Stdout, os.Stdin} {
		if _, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS); err == nil {
			return f
		}
	}
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		return nil
	}
	return f
}

// raw hands every key and the size of the window to the container.
func (t *terminal) raw() error {
	old, err := unix.IoctlGetTermios(int(t.host.Fd()), unix.TCGETS)
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.old = old
	// cfmakeraw(3), but for OPOST: this side turns LF into CR LF
	err = change(t.host, func(s *unix.Termios) {
		s.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
		s.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
		s.Cflag = s.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
		s.Cc[unix.VMIN], s.Cc[unix.VTIME] = 1, 0
	})
	if err != nil {
		return fmt.Errorf("terminal: %w", err)
	}
	t.winch = make(chan os.Signal, 1)
	signal.Notify(t.winch, unix.SIGWINCH)
	t.resize()
	// ends when close closes the channel
	go func() {
		for range t.winch {
			t.resize()
		}
	}()
	return nil
}

func (t *terminal) resize() {
	if ws, err := unix.IoctlGetWinsize(int(t.host.Fd()), unix.TIOCGWINSZ); err == nil && ws.Row+ws.Col > 0 {
		unix.IoctlSetWinsize(int(t.master.Fd()), unix.TIOCSWINSZ, ws)
	}
}

func change(f *os.File, do func(*unix.Termios)) error {
	s, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return err
	}
	do(s)
	return unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, s)
}

// close shows what is left of the output and gives the caller's terminal back. Processes that live on may keep the
// other side open; they are not waited for.
func (t *terminal) close() {
	if t == nil {
		return
	}
	if t.done != nil {
		t.master.SetReadDeadline(time.Now().Add(200 * time.Millisecond))
		<-t.done
	}
	if t.winch != nil {
		signal.Stop(t.winch)
		close(t.winch)
	}
	if t.old != nil {
		unix.IoctlSetTermios(int(t.host.Fd()), unix.TCSETS, t.old)
	}
	for _, f := range [...]*os.File{t.mine, t.theirs, t.master} {
		if f != nil {
			f.Close()
		}
	}
}

// errDetached is what runc says, too, and its callers look for it.
var errDetached = errors.New("cannot allocate tty if berth-oci will detach without setting console socket")
