package systemd

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"io/fs"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// TestEncode pins the bytes of a call.
func TestEncode(t *testing.T) {
	t.Parallel()
	m := call("d.e", "/o", "i.f", "M", "unit", true, []Property{{"P", []uint32{7}}, {"T", uint64(1)}}, auxiliary{})
	m.serial = 2
	const head = "6c010001" + "50000000" + "02000000" // call, version 1; 80 bytes of body; serial 2
	if got := hex.EncodeToString(m.encode()); !strings.HasPrefix(got, head) || len(got)%16 != 0 {
		t.Errorf("message %s", got)
	}
	r, err := readMessage(bytes.NewReader(m.encode()))
	if err != nil {
		t.Fatal(err)
	}
	if r.path != "/o" || r.iface != "i.f" || r.member != "M" || r.dest != "d.e" || r.signature != "sba(sv)a(sa(sv))" || !bytes.Equal(r.body, m.body) {
		t.Errorf("read back %+v", r)
	}
	const body = "04000000" + "756e697400" + "000000" + "01000000" + // "unit", padded to 4; true
		"30000000" + "00000000" + // array of 48 bytes; padded to 8, not counted
		"01000000" + "5000" + "02617500" + "0000" + "04000000" + "07000000" + "00000000" + // "P", "au", 4 bytes: 7; padded to 8
		"01000000" + "5400" + "017400" + "00000000000000" + "0100000000000000" + // "T", "t", padded to 8; 1
		"00000000" + "00000000" // no auxiliary units; padded to 8
	if got := hex.EncodeToString(m.body); got != body {
		t.Errorf("body %s, want %s", got, body)
	}
}

// TestEncodePairs pins those of a(ss), the devices of a unit.
func TestEncodePairs(t *testing.T) {
	t.Parallel()
	m := call("d.e", "/o", "i.f", "M", [][2]string{{"/a", "r"}, {"b", "m"}})
	const body = "1e000000" + "00000000" + // array of 30 bytes; padded to 8, not counted
		"02000000" + "2f6100" + "00" + "01000000" + "7200" + "0000" + // "/a", padded to 4; "r", padded to 8
		"01000000" + "6200" + "0000" + "01000000" + "6d00" // "b", padded to 4; "m"
	if got := hex.EncodeToString(m.body); got != body || m.signature != "a(ss)" {
		t.Errorf("%s, body %s, want %s", m.signature, got, body)
	}
}

// peer is the far end of a connection: it authenticates and answers each call
// with what answer returns.
func peer(t *testing.T, answer func(m message) []message) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "s")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	// ends when the client closes the connection or the test closes the listener
	go func() {
		c, err := l.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		in := bufio.NewReader(c)
		if line, _ := in.ReadString('\n'); !strings.HasPrefix(line, "\x00AUTH EXTERNAL ") {
			return
		}
		io.WriteString(c, "OK 0123\r\n")
		in.ReadString('\n')
		for {
			m, err := readMessage(in)
			if err != nil {
				return
			}
			for _, r := range answer(m) {
				r.replyTo = m.serial
				if r.kind == kindSignal {
					r.replyTo = 0
				}
				r.serial = 1
				c.Write(r.encode())
			}
		}
	}()
	return socket
}

func reply(args ...any) message {
	m := call("", "", "", "", args...)
	m.kind = kindReply
	return m
}

func removed(job, result string) message {
	m := call("", "/o", "i", "JobRemoved", uint32(1), job, "x.scope", result)
	m.kind, m.signature = kindSignal, "uoss"
	return m
}

func failure(name string) message {
	m := reply("no")
	m.kind, m.errorName = kindError, name
	return m
}

func TestStartScope(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name    string
		answers []message
		check   func(error) bool
	}{
		{"reply, then signal", []message{reply("/job/1"), removed("/job/2", "failed"), removed("/job/1", "done")}, func(err error) bool { return err == nil }},
		{"signal, then reply", []message{removed("/job/1", "done"), reply("/job/1")}, func(err error) bool { return err == nil }},
		{"job fails", []message{reply("/job/1"), removed("/job/1", "failed")}, func(err error) bool { return err != nil }},
		{"exists", []message{failure(destination + ".UnitExists")}, func(err error) bool { return errors.Is(err, fs.ErrExist) }},
		{"never done", []message{reply("/job/1")}, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			socket := peer(t, func(m message) []message {
				if m.member != "StartTransientUnit" {
					return []message{reply()}
				}
				return c.answers
			})
			ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
			defer cancel()
			conn, err := Dial(ctx, "/nonexistent", socket)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close()
			if c.name == "never done" {
				short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
				defer cancel()
				ctx = short
			}
			if err := conn.StartScope(ctx, Scope{Name: "x.scope", Slice: "y.slice", PID: 1}); !c.check(err) {
				t.Errorf("StartScope: %v", err)
			}
		})
	}
}

// A systemd before 253 refuses OOMPolicy for a scope, which then starts without.
func TestStartScopeOOMPolicy(t *testing.T) {
	t.Parallel()
	for _, old := range []bool{false, true} {
		calls := make(chan string, 9)
		socket := peer(t, func(m message) []message {
			if m.member != "StartTransientUnit" {
				return []message{reply()}
			}
			calls <- string(m.body)
			if old && strings.Contains(string(m.body), "OOMPolicy") {
				return []message{failure("org.freedesktop.DBus.Error.PropertyReadOnly")}
			}
			return []message{reply("/job/1"), removed("/job/1", "done")}
		})
		conn, err := Dial(t.Context(), socket)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.StartScope(t.Context(), Scope{Name: "x.scope", Slice: "y.slice", PID: 1, OOMKill: true}); err != nil {
			t.Error(err)
		}
		if first := <-calls; !strings.Contains(first, "OOMPolicy") || !strings.Contains(first, "kill") {
			t.Errorf("asked for %q", first)
		}
		if got := len(calls); old != (got == 1) {
			t.Errorf("old %v: %d more calls", old, got)
		}
	}
}

func TestStopMissing(t *testing.T) {
	t.Parallel()
	socket := peer(t, func(m message) []message {
		if m.member == "Subscribe" {
			return []message{reply()}
		}
		return []message{failure(destination + ".NoSuchUnit")}
	})
	conn, err := Dial(t.Context(), socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if err := conn.Stop(t.Context(), "x.scope"); err != nil {
		t.Errorf("Stop of a unit that is not there: %v", err)
	}
	if err := conn.SetProperties(t.Context(), "x.scope", []Property{{"MemoryMax", uint64(1)}}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("SetProperties: %v", err)
	}
}

func TestNoSystemd(t *testing.T) {
	t.Parallel()
	if _, err := Dial(t.Context(), "/nonexistent/a"); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("Dial: %v", err)
	}
}

func FuzzReadMessage(f *testing.F) {
	f.Add(removed("/job", "done").encode())
	f.Add(failure("a.b").encode())
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := readMessage(bytes.NewReader(b))
		if err == nil {
			m.text()
			m.jobRemoved()
		}
	})
}
