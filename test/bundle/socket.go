package bundle

import (
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// patience is how long a runtime may take to call, and a container to write to its terminal.
const patience = time.Minute

// Listen makes a socket for a runtime to send descriptors to. Its path is short: sun_path has 108 bytes.
func Listen(t *testing.T) *net.UnixListener {
	t.Helper()
	dir, err := os.MkdirTemp("", "sock")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: dir + "/s", Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l
}

// Accept takes the next connection.
func Accept(t *testing.T, l *net.UnixListener) *net.UnixConn {
	t.Helper()
	l.SetDeadline(time.Now().Add(patience))
	conn, err := l.AcceptUnix()
	if err != nil {
		t.Fatal(err)
	}
	conn.SetDeadline(time.Now().Add(patience))
	return conn
}

// Receive reads once: text, empty at the end of the connection, and the descriptors that came with it.
func Receive(t *testing.T, conn *net.UnixConn) (string, []int) {
	t.Helper()
	buf, oob := make([]byte, 4096), make([]byte, unix.CmsgSpace(64))
	n, oobn, _, _, err := conn.ReadMsgUnix(buf, oob)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	var all []int
	messages, _ := unix.ParseSocketControlMessage(oob[:oobn])
	for i := range messages {
		fds, _ := unix.ParseUnixRights(&messages[i])
		all = append(all, fds...)
	}
	return string(buf[:n]), all
}

// Console is a socket for `--console-socket`; terminal is the master that the runtime sends. What `--pidfd-socket` gets
// comes the same way.
func Console(t *testing.T) (path string, terminal func() *os.File) {
	t.Helper()
	l := Listen(t)
	return l.Addr().String(), func() *os.File {
		t.Helper()
		conn := Accept(t, l)
		defer conn.Close()
		_, fds := Receive(t, conn)
		if len(fds) != 1 {
			t.Fatalf("%d descriptors came, want the terminal's", len(fds))
		}
		unix.SetNonblock(fds[0], true) // for deadlines
		f := os.NewFile(uintptr(fds[0]), "terminal")
		t.Cleanup(func() { f.Close() })
		return f
	}
}

// ReadUntil reads from a terminal until the text ends in end.
func ReadUntil(t *testing.T, terminal *os.File, end string) string {
	t.Helper()
	terminal.SetReadDeadline(time.Now().Add(patience))
	said, buf := "", make([]byte, 4096)
	for !strings.HasSuffix(said, end) {
		n, err := terminal.Read(buf)
		said += string(buf[:n])
		if err != nil {
			t.Fatalf("%v after %q", err, said)
		}
	}
	return said
}
