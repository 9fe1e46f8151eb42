package monitor_test

import (
	"fmt"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// raw connects to the monitor in dir as a daemon of another make.
func raw(t *testing.T, dir string) int {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: filepath.Join(dir, wire.SocketName)})
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(fd) })
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: int64(patience.Seconds())})
	return fd
}

func ask(t *testing.T, fd int, packet string) string {
	t.Helper()
	b := make([]byte, wire.MaxPacket)
	_, err := unix.Write(fd, []byte(packet))
	n := 0
	if err == nil {
		n, err = unix.Read(fd, b)
	}
	if err != nil {
		t.Fatalf("%s: %v", packet, err)
	}
	return string(b[:n])
}

// What a monitor is told by a daemon that knows more, or nothing.
func TestForeignPackets(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	fd := raw(t, dir)
	for packet, want := range map[string]string{
		`{"v":7,"seq":1,"op":"hello","new":{"a":[1]}}`: fmt.Sprintf(`{"v":1,"seq":1,"pid":%d}`, m.Pid()),
		`{"v":7,"seq":2,"op":"fly"}`:                   `{"v":1,"seq":2,"err":{"text":"operation fly: unknown to this monitor","errno":38}}`,
		`{"v":1,"seq":3,"op":"spawn"}`:                 `{"v":1,"seq":3,"err":{"text":"spawn: want an id and an argv","errno":22}}`,
		`{"v":1,"seq":4,"op":"attach","stdout":true}`:  `{"v":1,"seq":4,"err":{"text":"attach : want a descriptor for each stream","errno":22}}`,
		`{"v":1,"seq":5,"op":"hold","name":"x"}`:       `{"v":1,"seq":5,"err":{"text":"hold: want one name and one descriptor","errno":22}}`,
		`{"v":1,"seq":6,"op":"list","skip":-5}`:        `{"v":1,"seq":6}`,
		`{"seq":7,`:                                    `{"v":1,"seq":7,"err":{"text":"malformed packet","errno":74}}`,
	} {
		if got := ask(t, fd, packet); got != want {
			t.Errorf("%s: %s\nwant %s", packet, got, want)
		}
	}
}

// A daemon that asks and never reads is cut off; the monitor serves the next.
func TestDeafDaemon(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	fd := raw(t, dir)
	ask(t, fd, `{"v":1,"seq":1,"op":"hello"}`)
	unix.SetNonblock(fd, true)
	var err error
	for i := 0; err == nil || err == unix.EAGAIN; i++ {
		if i > 1_000_000 {
			t.Fatal("never cut off")
		}
		_, err = unix.Write(fd, []byte(`{"v":1,"seq":`+strconv.Itoa(i)+`,"op":"hello"}`))
		if err == unix.EAGAIN {
			time.Sleep(time.Millisecond)
		}
	}
	if err != unix.EPIPE && err != unix.ECONNRESET {
		t.Error(err)
	}
	m2, err := monitor.Connect(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if _, err = m2.List(t.Context()); err != nil || m2.Pid() != m.Pid() {
		t.Error(err)
	}
	if got := rss(t, m.Pid()); got > 4000 {
		t.Errorf("monitor has %d KiB", got)
	}
	m2.Close()
}

// More processes than one answer holds.
func TestLongList(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	const n = 300 // a page is 256
	for i := range n {
		s := wire.Spawn{ID: "l" + strconv.Itoa(i), Argv: []string{"/bin/sleep", "100"}, Dir: dir, PassIO: true}
		if _, _, err := m.Run(t.Context(), s, nullFiles(t)); err != nil {
			t.Fatal(err)
		}
	}
	l, err := m.List(t.Context())
	if err != nil || len(l) != n || l[n-1].ID != "l299" {
		t.Errorf("%d entries, %v", len(l), err)
	}
}
