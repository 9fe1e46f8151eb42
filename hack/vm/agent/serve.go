package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/berth-runtime/berth/hack/vm/wire"
	"golang.org/x/sys/unix"
)

// serve answers the host until the node ends.
func serve() error {
	conf, err := words()
	if err != nil {
		return err
	}
	if err := network(conf["ip"], conf["gateway"]); err != nil {
		return err
	}
	l, err := net.Listen("tcp", fmt.Sprintf(":%d", wire.Port))
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		// Ends when the command has, or the host's side is closed.
		go func() {
			defer c.Close()
			answer(c)
		}()
	}
}

func network(ip, gateway string) error {
	for _, args := range [][]string{
		{"link", "set", "lo", "up"}, {"addr", "replace", ip, "dev", "eth0"}, {"link", "set", "eth0", "up"},
		{"route", "replace", "default", "via", gateway},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %v: %w: %s", args, err, out)
		}
	}
	return nil
}

func answer(c net.Conn) {
	in := bufio.NewReader(c)
	out := wire.NewWriter(c)
	line, err := in.ReadBytes('\n')
	if err != nil {
		return
	}
	var req wire.Request
	if err := json.Unmarshal(line, &req); err != nil || len(req.Args) == 0 {
		out.Send(wire.Broken, []byte("bad request"))
		return
	}
	code, err := execute(req, in, out)
	if err != nil {
		out.Send(wire.Broken, []byte(err.Error()))
		return
	}
	out.Send(wire.Exit, strconv.AppendInt(nil, int64(code), 10))
}

// execute runs the command in a session of its own, so that the whole of it can be ended.
func execute(req wire.Request, in *bufio.Reader, out *wire.Writer) (int, error) {
	cmd := exec.Command(req.Args[0], req.Args[1:]...)
	cmd.Dir = req.Dir
	if cmd.Dir == "" {
		cmd.Dir = "/"
	}
	cmd.Env = append(os.Environ(), "HOME=/root", "USER=root", "LANG=C.UTF-8",
		"PATH=/payload/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
	cmd.Env = append(cmd.Env, req.Env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if req.TTY {
		return onTerminal(cmd, req, in, out)
	}
	// Pipes and copies of our own: exec.Cmd's Wait would wait for stdin's copy, which ends with the connection.
	stdin, err := cmd.StdinPipe()
	if err != nil {
		return 0, err
	}
	cmd.Stdout, cmd.Stderr = out.Stream(wire.Stdout), out.Stream(wire.Stderr)
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// Ends with the connection, which its caller closes after the command's end.
	go feed(cmd.Process.Pid, in, stdin, nil)
	return exitCode(cmd.Wait())
}

// feed passes the host's frames on. When the host is gone the command is ended; after the command's own end, the
// session is empty or what was left on purpose, with setsid or systemd-run.
func feed(pid int, in *bufio.Reader, stdin io.WriteCloser, pty *os.File) {
	defer stdin.Close()
	for {
		kind, data, err := wire.Read(in)
		if err != nil {
			syscall.Kill(-pid, syscall.SIGKILL)
			return
		}
		switch {
		case kind == wire.Stdin && len(data) == 0:
			stdin.Close()
		case kind == wire.Stdin:
			stdin.Write(data)
		case kind == wire.Resize && pty != nil:
			var rows, cols uint16
			if n, _ := fmt.Sscan(string(data), &rows, &cols); n == 2 {
				resize(pty, rows, cols)
			}
		}
	}
}

func exitCode(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case errors.As(err, &exit):
		if s, ok := exit.Sys().(syscall.WaitStatus); ok && s.Signaled() {
			return 128 + int(s.Signal()), nil
		}
		return exit.ExitCode(), nil
	}
	return 0, err
}

func onTerminal(cmd *exec.Cmd, req wire.Request, in *bufio.Reader, out *wire.Writer) (int, error) {
	pty, tty, err := openTerminal()
	if err != nil {
		return 0, err
	}
	defer pty.Close()
	resize(pty, req.Rows, req.Cols)
	cmd.Env = append(cmd.Env, "TERM=xterm-256color")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
	cmd.SysProcAttr.Setctty = true
	err = cmd.Start()
	tty.Close()
	if err != nil {
		return 0, err
	}
	// Ends with the connection.
	go feed(cmd.Process.Pid, in, pty, pty)
	copied := make(chan struct{})
	// Ends when the last process on the terminal has: reading the master gives EIO then (pty(7)).
	go func() {
		defer close(copied)
		io.Copy(out.Stream(wire.Stdout), pty)
	}()
	code, err := exitCode(cmd.Wait())
	<-copied
	return code, err
}

func openTerminal() (pty, tty *os.File, err error) {
	pty, err = os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	if err = unix.IoctlSetPointerInt(int(pty.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		pty.Close()
		return nil, nil, err
	}
	n, err := unix.IoctlGetInt(int(pty.Fd()), unix.TIOCGPTN)
	if err != nil {
		pty.Close()
		return nil, nil, err
	}
	tty, err = os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		pty.Close()
	}
	return pty, tty, err
}

func resize(pty *os.File, rows, cols uint16) {
	if rows > 0 && cols > 0 {
		unix.IoctlSetWinsize(int(pty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: rows, Col: cols})
	}
}
