package stream_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/sandbox"
)

// fake runs commands in the test: the word says what it does.
type fake struct {
	begun chan struct{} // a session waits for its end
	ended chan string   // what it saw
}

// hangs waits until a session waits for its end. A client that hangs up before may have had nothing begun at all.
func (f fake) hangs(t *testing.T) {
	t.Helper()
	select {
	case <-f.begun:
	case <-time.After(time.Minute):
		t.Error("exec does not begin")
	}
}

func (f fake) Exec(ctx context.Context, id string, req sandbox.ExecRequest) (int, error) {
	switch req.Cmd[0] {
	case "cat":
		if req.Stdin == nil {
			return 0, errors.New("no stdin")
		}
		_, err := io.Copy(req.Stdout, req.Stdin)
		return 0, err
	case "exit":
		fmt.Fprint(req.Stdout, "out")
		if req.Stderr != nil {
			fmt.Fprint(req.Stderr, "err")
		}
		return strconv.Atoi(req.Cmd[1])
	case "sizes":
		for size := range req.Resize {
			fmt.Fprintf(req.Stdout, "%dx%d;", size.Width, size.Height)
			if size.Width == 999 {
				return 0, nil
			}
		}
		return 1, nil
	case "hang":
		f.begun <- struct{}{}
		<-ctx.Done() // stdin is never read
		f.ended <- "hang"
		return 0, ctx.Err()
	case "drip": // for longer than a session may be idle
		for range 12 {
			time.Sleep(250 * time.Millisecond)
			io.WriteString(req.Stdout, ".")
		}
		return 0, ctx.Err()
	case "flood":
		n, _ := strconv.ParseInt(req.Cmd[1], 10, 64)
		_, err := io.Copy(req.Stdout, io.LimitReader(zeros{}, n))
		return 0, err
	}
	return 0, fmt.Errorf("exec %s: %w", req.Cmd[0], fs.ErrNotExist)
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

func (f fake) Attach(ctx context.Context, id string, req sandbox.AttachRequest) error {
	_, err := io.Copy(req.Stdout, req.Stdin)
	return err
}

func (f fake) Dial(ctx context.Context, pod string, port int32) (net.Conn, error) {
	return new(net.Dialer).DialContext(ctx, "tcp", fmt.Sprintf("127.0.0.1:%d", port))
}

// start runs a server for the test and checks that it leaves no goroutine behind.
func start(t *testing.T, options ...stream.Options) (*stream.Server, fake) {
	t.Helper()
	opt := stream.Options{CreationTimeout: time.Minute}
	if len(options) > 0 {
		opt = options[0]
	}
	before := runtime.NumGoroutine()
	f := fake{begun: make(chan struct{}, 100), ended: make(chan string, 100)}
	s, err := stream.Listen(opt, f)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- s.Serve() }()
	t.Cleanup(func() {
		if err := s.Close(context.Background()); err != nil {
			t.Error(err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
		// Library goroutines of connections that were closed need a moment.
		for end := time.Now().Add(time.Minute); time.Now().Before(end); {
			if runtime.NumGoroutine() <= before+2 {
				return
			}
			time.Sleep(100 * time.Millisecond)
		}
		buf := make([]byte, 1<<20)
		t.Errorf("%d goroutines, %d before:\n%s", runtime.NumGoroutine(), before, buf[:runtime.Stack(buf, true)])
	})
	return s, f
}

func url(t *testing.T, s *stream.Server, req any) string {
	t.Helper()
	u, err := s.URL(req)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

// protocols are all ways to run a session.
func protocols() map[string]func(*testing.T, string, want) *result {
	return map[string]func(*testing.T, string, want) *result{
		"spdy": overSPDY,
		"v5": func(t *testing.T, url string, w want) *result {
			return overWS(t, url, w, "v5.channel.k8s.io", "v4.channel.k8s.io")
		},
		"v4": func(t *testing.T, url string, w want) *result { return overWS(t, url, w, "v4.channel.k8s.io") },
	}
}

func TestExitCode(t *testing.T) {
	s, _ := start(t)
	for name, run := range protocols() {
		for _, code := range []string{"0", "1", "137", "255"} {
			u := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", code}, Stdout: true, Stderr: true})
			r := run(t, u, want{stderr: true})
			if r.stdout.String() != "out" || r.stderr.String() != "err" {
				t.Errorf("%s: output %q and %q", name, r.stdout.String(), r.stderr.String())
			}
			if code == "0" && !r.succeeded() || code != "0" && (r.exitCode() != code || r.field("reason") != "NonZeroExitCode") {
				t.Errorf("%s: status of exit %s: %s", name, code, r.status)
			}
		}
	}
}

func TestFailure(t *testing.T) {
	s, _ := start(t)
	for name, run := range protocols() {
		r := run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"nope"}, Stdout: true}), want{})
		if r.field("status") != "Failure" || !strings.Contains(r.field("message"), "exec nope") {
			t.Errorf("%s: status %s", name, r.status)
		}
	}
}

func TestHalfClose(t *testing.T) {
	s, _ := start(t)
	data := make([]byte, 3<<20+17)
	for i := range data {
		data[i] = byte(rand.IntN(256))
	}
	for _, name := range []string{"spdy", "v5"} {
		run := protocols()[name]
		r := run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"cat"}, Stdin: true, Stdout: true}), want{stdin: bytes.NewReader(data)})
		if !bytes.Equal(r.stdout.Bytes(), data) || !r.succeeded() {
			t.Errorf("%s exec: %d bytes of %d, status %s", name, r.stdout.Len(), len(data), r.status)
		}
		r = run(t, url(t, s, &rt.AttachRequest{ContainerId: "c", Stdin: true, Stdout: true}), want{stdin: bytes.NewReader(data)})
		if !bytes.Equal(r.stdout.Bytes(), data) || !r.succeeded() {
			t.Errorf("%s attach: %d bytes of %d, status %s", name, r.stdout.Len(), len(data), r.status)
		}
	}
}

func TestFlood(t *testing.T) {
	s, _ := start(t)
	for name, run := range protocols() {
		r := run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"flood", "20000000"}, Stdout: true}), want{})
		if r.stdout.Len() != 20000000 || !r.succeeded() {
			t.Errorf("%s: %d bytes, status %s", name, r.stdout.Len(), r.status)
		}
	}
}

func TestResize(t *testing.T) {
	s, _ := start(t)
	sizes := []string{`{"Width":80,"Height":24}`, `{"Width":0,"Height":24}`}
	for i := range 500 {
		sizes = append(sizes, fmt.Sprintf(`{"Width":%d,"Height":50}`, 100+i))
	}
	sizes = append(sizes, `{"Width":999,"Height":1}`)
	for name, run := range protocols() {
		r := run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"sizes"}, Stdout: true, Tty: true}), want{tty: true, sizes: sizes})
		if out := r.stdout.String(); !strings.HasSuffix(out, "999x1;") || strings.Contains(out, "0x24;") && !strings.Contains(out, "80x24;") || !r.succeeded() {
			t.Errorf("%s: sizes %.200q, status %s", name, out, r.status)
		}
	}
}

// TestGone hangs up on an exec that neither reads nor writes: it has to end all the same.
func TestGone(t *testing.T) {
	s, f := start(t)
	for name, run := range protocols() {
		for _, stdin := range []io.Reader{nil, strings.NewReader("")} {
			run(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdin: stdin != nil, Stdout: true}), want{hangUp: func() { f.hangs(t) }, stdin: stdin})
			select {
			case <-f.ended:
			case <-time.After(time.Minute):
				t.Errorf("%s: exec goes on without its client (stdin %t)", name, stdin != nil)
			}
		}
	}
}

// TestGoneUnread hangs up while the connection holds stdin that the process does not take. It must not be more than
// the socket takes in: the close comes behind it.
func TestGoneUnread(t *testing.T) {
	s, f := start(t)
	full := make([]byte, 32<<10) // channel 0, zeros
	for _, protocol := range []string{"v5.channel.k8s.io", "v4.channel.k8s.io"} {
		ws := dialWS(t, url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdin: true, Stdout: true}), protocol)
		ws.ReadMessage() // unread input would make the close a reset
		if err := ws.WriteMessage(websocket.BinaryMessage, full); err != nil {
			t.Fatal(err)
		}
		time.Sleep(100 * time.Millisecond) // for the server to be stuck
		ws.Close()
		select {
		case <-f.ended:
		case <-time.After(time.Minute):
			t.Errorf("%s: exec goes on without its client", protocol)
		}
	}
}

// TestClose ends sessions when the server does.
func TestClose(t *testing.T) {
	s, f := start(t)
	u := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true})
	ws := dialWS(t, u, "v5.channel.k8s.io")
	defer ws.Close()
	f.hangs(t)
	if err := s.Close(context.Background()); err != nil {
		t.Error(err)
	}
	select {
	case <-f.ended:
	case <-time.After(time.Minute):
		t.Error("exec goes on without its server")
	}
}

func TestTokens(t *testing.T) {
	s, _ := start(t)
	req := &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "0"}, Stdout: true}
	u := url(t, s, req)
	if r := overSPDY(t, u, want{}); !r.succeeded() {
		t.Errorf("status %s", r.status)
	}
	for _, bad := range []string{u, u[:strings.LastIndex(u, "/")] + "/nothing", strings.Replace(u, "/exec/", "/other/", 1)} {
		resp, err := http.Get(bad)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: status %d", bad, resp.StatusCode)
		}
	}
	var err error
	for range 1001 {
		if _, err = s.URL(req); err != nil {
			break
		}
	}
	if !errors.Is(err, stream.ErrBusy) {
		t.Errorf("1001 requests: %v", err)
	}
	if _, err := s.URL(&rt.StatusRequest{}); !errors.Is(err, errors.ErrUnsupported) {
		t.Errorf("other request: %v", err)
	}
}

func TestAddr(t *testing.T) {
	for addr, ok := range map[string][2]bool{
		"127.0.0.1:0": {true, true}, "[::1]:80": {true, true}, "localhost:0": {true, true}, "127.9.9.9:1": {true, true},
		"0.0.0.0:0": {}, "[::]:1": {}, ":0": {}, "127.0.0.1": {}, "example.org:1": {}, "10.0.0.1:1": {false, true},
	} {
		for i, encrypted := range []bool{false, true} {
			if err := stream.CheckAddr(addr, encrypted); (err == nil) != ok[i] || err != nil && !errors.Is(err, fs.ErrInvalid) {
				t.Errorf("%s: %v", addr, err)
			}
		}
	}
}

// echo listens on a loopback port and sends back what arrives, after the client has ended its side when late is set.
func echo(t *testing.T, late bool) int32 {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				if !late {
					io.Copy(c, c)
					return
				}
				b, _ := io.ReadAll(c)
				c.Write(b)
			}()
		}
	}()
	return int32(ln.Addr().(*net.TCPAddr).Port)
}

// pair opens the two streams of one forwarded connection. The data stream of one that fails at once may be reset
// before it is open: then it is nil.
func pair(t *testing.T, conn httpstream.Connection, port int32, id int) (data, errs httpstream.Stream) {
	t.Helper()
	open := func(kind string) httpstream.Stream {
		h := http.Header{}
		h.Set("port", fmt.Sprint(port))
		h.Set("requestID", fmt.Sprint(id))
		h.Set("streamType", kind)
		s, err := conn.CreateStream(h)
		if err != nil {
			t.Logf("open stream %s of port %d: %v", kind, port, err)
			return nil
		}
		return s
	}
	errs = open("error")
	errs.Close()
	data = open("data")
	return data, errs
}

func TestPortForward(t *testing.T) {
	s, _ := start(t)
	port := echo(t, true)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	nobody := int32(closed.Addr().(*net.TCPAddr).Port)
	closed.Close()
	for name, dial := range map[string]func(*testing.T, string) httpstream.Connection{
		"spdy":   func(t *testing.T, u string) httpstream.Connection { return dialSPDY(t, u, "portforward.k8s.io") },
		"tunnel": dialTunnel,
	} {
		conn := dial(t, url(t, s, &rt.PortForwardRequest{PodSandboxId: "p"}))
		// A connection nobody takes must not end the session.
		_, errs := pair(t, conn, nobody, 0)
		if b, _ := io.ReadAll(errs); !strings.Contains(string(b), "refused") {
			t.Errorf("%s: refused connection: %q", name, b)
		}
		var wg sync.WaitGroup
		for i := range 20 {
			data, errs := pair(t, conn, port, i+1)
			wg.Go(func() {
				text := strings.Repeat(fmt.Sprintf("%d ", i), 50000)
				io.WriteString(data, text)
				data.Close() // the server answers only after this
				b, err := io.ReadAll(data)
				if string(b) != text || err != nil {
					t.Errorf("%s: connection %d: %d bytes of %d, %v", name, i, len(b), len(text), err)
				}
				if b, _ := io.ReadAll(errs); len(b) > 0 {
					t.Errorf("%s: connection %d: %s", name, i, b)
				}
			})
		}
		wg.Wait()
		conn.Close()
	}
}

// TestPortForwardChannels is the older protocol, with one connection a port, fixed by the request.
func TestPortForwardChannels(t *testing.T) {
	s, _ := start(t)
	port := echo(t, false)
	ws := dialWS(t, url(t, s, &rt.PortForwardRequest{PodSandboxId: "p", Port: []int32{port}}), "v4.channel.k8s.io")
	defer ws.Close()
	for range 2 { // each channel begins with its port
		if _, msg, err := ws.ReadMessage(); err != nil || len(msg) != 3 || int32(msg[1])|int32(msg[2])<<8 != port {
			t.Fatalf("first message %v, %v", msg, err)
		}
	}
	ws.WriteMessage(websocket.BinaryMessage, []byte("\x00hello"))
	if _, msg, err := ws.ReadMessage(); err != nil || string(msg) != "\x00hello" {
		t.Errorf("got %q, %v", msg, err)
	}
}
