package machine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"github.com/berth-runtime/berth/hack/vm/wire"
	"golang.org/x/sys/unix"
)

// Command is what Run runs. Nil streams are empty.
type Command struct {
	Args   []string
	Dir    string
	Env    []string
	Stdin  io.Reader
	Stdout io.Writer
	Stderr io.Writer
	TTY    bool // Stdin is a terminal, in raw mode by the caller
}

// Run runs a command as root and returns its exit code, 128 + n after signal n. If ctx ends, so does the command.
func (m *Machine) Run(ctx context.Context, c Command) (int, error) {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", m.Addr)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	req := wire.Request{Args: c.Args, Dir: c.Dir, Env: c.Env, TTY: c.TTY}
	if c.TTY {
		req.Rows, req.Cols = size()
	}
	line, err := json.Marshal(req)
	if err != nil {
		return 0, err
	}
	if _, err := conn.Write(append(line, '\n')); err != nil {
		return 0, err
	}
	out := wire.NewWriter(conn)
	// Ends with the connection or its input; a read that blocks on a terminal ends with the process.
	go send(out, c.Stdin)
	if c.TTY {
		defer resizes(out)()
	}
	code, err := receive(conn, c)
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return code, err
}

func send(out *wire.Writer, stdin io.Reader) {
	if stdin != nil {
		if _, err := io.Copy(out.Stream(wire.Stdin), stdin); err != nil {
			return
		}
	}
	out.Send(wire.Stdin, nil)
}

func receive(r io.Reader, c Command) (int, error) {
	for {
		kind, data, err := wire.Read(r)
		if err != nil {
			return 0, fmt.Errorf("run %v: connection to the node: %w", c.Args, err)
		}
		switch kind {
		case wire.Stdout:
			if c.Stdout != nil {
				c.Stdout.Write(data)
			}
		case wire.Stderr:
			if c.Stderr != nil {
				c.Stderr.Write(data)
			}
		case wire.Exit:
			return strconv.Atoi(string(data))
		case wire.Broken:
			return 0, fmt.Errorf("run %v: %w", c.Args, errors.New(string(data)))
		}
	}
}

func size() (rows, cols uint16) {
	ws, err := unix.IoctlGetWinsize(int(os.Stdin.Fd()), unix.TIOCGWINSZ)
	if err != nil {
		return 24, 80
	}
	return ws.Row, ws.Col
}

// resizes tells the node of a terminal's new size, until the function it returns is called.
func resizes(out *wire.Writer) (stop func()) {
	changed := make(chan os.Signal, 1)
	signal.Notify(changed, syscall.SIGWINCH)
	done := make(chan struct{})
	// Ends when stopped.
	go func() {
		for {
			select {
			case <-changed:
				rows, cols := size()
				out.Send(wire.Resize, fmt.Appendf(nil, "%d %d", rows, cols))
			case <-done:
				return
			}
		}
	}()
	return func() { signal.Stop(changed); close(done) }
}
