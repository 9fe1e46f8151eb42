package stream_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	neturl "net/url"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
)

// host is where the server of a URL listens.
func host(t *testing.T, address string) string {
	t.Helper()
	u, err := neturl.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	return u.Host
}

// Hundreds of connections that say nothing, or not all, keep nobody out: the oldest go for the new ones, and all go
// when their time is over.
func TestSlowLoris(t *testing.T) {
	for name, c := range map[string]struct {
		timeout time.Duration
		gone    int
	}{"pushed out": {time.Hour, 600 - 256}, "timed out": {5 * time.Second, 600}} {
		t.Run(name, func(t *testing.T) { slowLoris(t, c.timeout, c.gone) })
	}
}

// slowLoris opens 600 connections, of which the first ones have to go.
func slowLoris(t *testing.T, timeout time.Duration, gone int) {
	s, _ := start(t, stream.Options{HandshakeTimeout: timeout})
	u := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "0"}, Stdout: true})
	var idle []net.Conn
	for i := range 600 {
		c, err := net.Dial("tcp", host(t, u))
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if i%2 == 0 {
			io.WriteString(c, "GET / HTTP/1.1\r\nX: ")
		}
		idle = append(idle, c)
	}
	if r := overSPDY(t, u, want{}); !r.succeeded() {
		t.Errorf("an honest client: %s", r.status)
	}
	for _, c := range idle[:gone] {
		c.SetReadDeadline(time.Now().Add(time.Minute))
		var ne net.Error
		if _, err := io.Copy(io.Discard, c); errors.As(err, &ne) && ne.Timeout() {
			t.Fatal("a connection that says nothing stays")
		}
	}
}

// A header without end is refused.
func TestHeaderSize(t *testing.T) {
	s, _ := start(t, stream.Options{})
	u := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "0"}, Stdout: true})
	c, err := net.Dial("tcp", host(t, u))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	// ends when the server closes the connection.
	go io.WriteString(c, "GET / HTTP/1.1\r\nX: "+strings.Repeat("x", 1<<20)+"\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(c), nil)
	if err == nil && resp.StatusCode != http.StatusRequestHeaderFieldsTooLarge {
		t.Errorf("status %s", resp.Status)
	}
}

// There are as many sessions as there may be; one more is told why not, and its URL stays good.
func TestSessionCap(t *testing.T) {
	s, _ := start(t, stream.Options{MaxSessions: 3})
	exec := &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true}
	early := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "0"}, Stdout: true})
	for range 3 {
		defer dialWS(t, url(t, s, exec), "v5.channel.k8s.io").Close()
	}
	if _, err := s.URL(exec); !errors.Is(err, stream.ErrBusy) || !strings.Contains(err.Error(), "3 sessions") {
		t.Errorf("URL: %v", err)
	}
	resp, err := http.Get(early)
	if err != nil {
		t.Fatal(err)
	}
	text, _ := io.ReadAll(resp.Body)
	resp.Body.Close()
	if resp.StatusCode != http.StatusServiceUnavailable || !strings.Contains(string(text), "3 sessions are open") {
		t.Errorf("%s: %s", resp.Status, text)
	}
}

// A place that is free again is taken by a URL that was refused.
func TestSessionCapGivesBack(t *testing.T) {
	s, f := start(t, stream.Options{MaxSessions: 1})
	early := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "0"}, Stdout: true})
	ws := dialWS(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true}), "v5.channel.k8s.io")
	f.hangs(t)
	get := func() int {
		resp, err := http.Get(early)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		return resp.StatusCode
	}
	if got := get(); got != http.StatusServiceUnavailable {
		t.Errorf("status %d", got)
	}
	ws.Close()
	<-f.ended
	for end := time.Now().Add(time.Minute); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if _, err := s.URL(&rt.ExecRequest{}); err == nil {
			break
		}
	}
	if r := overSPDY(t, early, want{}); !r.succeeded() {
		t.Errorf("status %s", r.status)
	}
}

// A session without traffic ends, in every protocol; one with output alone does not.
func TestIdle(t *testing.T) {
	s, f := start(t, stream.Options{IdleTimeout: 2 * time.Second})
	for name, run := range protocols() {
		// ends with the session.
		go run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true}), want{cut: true})
		select {
		case <-f.ended:
		case <-time.After(time.Minute):
			t.Errorf("%s: an idle session goes on", name)
		}
	}
	for try := range 5 { // a busy machine may let the output rest for longer once
		r := protocols()["v5"](t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"drip"}, Stdout: true}), want{})
		if r.stdout.String() == "............" && r.succeeded() {
			break
		}
		if try == 4 {
			t.Errorf("output alone: %q, %s", r.stdout.String(), r.status)
		}
	}
}

// Whoever upgrades and opens no streams is not waited for.
func TestCreationTimeout(t *testing.T) {
	s, _ := start(t, stream.Options{CreationTimeout: time.Second})
	conn := dialSPDY(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true}), "v4.channel.k8s.io")
	defer conn.Close()
	select {
	case <-conn.CloseChan():
	case <-time.After(time.Minute):
		t.Error("a session without streams stays")
	}
}

// Streams that are opened and dropped at once leave nothing.
func TestForwardFlood(t *testing.T) {
	s, _ := start(t, stream.Options{})
	port := echo(t, false)
	for range 5 {
		conn := dialSPDY(t, url(t, s, &rt.PortForwardRequest{PodSandboxId: "p"}), "portforward.k8s.io")
		for i := range 200 {
			h := http.Header{}
			h.Set("port", fmt.Sprint(port))
			h.Set("requestID", fmt.Sprint(i/2))
			h.Set("streamType", []string{"error", "data"}[i%2])
			if _, err := conn.CreateStream(h); err != nil {
				break
			}
		}
		conn.Close()
	}
}
