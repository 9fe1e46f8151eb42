package stream_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// result is what a client saw of a session.
type result struct {
	stdout, stderr bytes.Buffer
	status         string // raw, from the error channel
}

func (r *result) succeeded() bool { return r.field("status") == "Success" }

func (r *result) field(name string) string {
	var m map[string]any
	if json.Unmarshal([]byte(r.status), &m) != nil {
		return ""
	}
	s, _ := m[name].(string)
	return s
}

// exitCode digs the code out of the status as clients do: details.causes[reason=ExitCode].message.
func (r *result) exitCode() string {
	var m struct {
		Details struct {
			Causes []struct{ Reason, Message string }
		}
	}
	json.Unmarshal([]byte(r.status), &m)
	for _, c := range m.Details.Causes {
		if c.Reason == "ExitCode" {
			return c.Message
		}
	}
	return ""
}

// want says which streams a client opens, and what it sends.
type want struct {
	stdin         io.Reader // nil: no stdin stream
	stderr, tty   bool
	sizes         []string
	keepStdinOpen bool
	hangUp        func() // hang up when connected and this has returned
	cut           bool   // the server may end the session
}

// dialSPDY upgrades to SPDY with the given sub-protocol.
func dialSPDY(t *testing.T, url, protocol string) httpstream.Connection {
	t.Helper()
	rt, err := spdy.NewRoundTripper(nil)
	if err != nil {
		t.Fatal(err)
	}
	req, _ := http.NewRequest(http.MethodPost, url, nil)
	req.Header.Set(httpstream.HeaderProtocolVersion, protocol)
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// overSPDY runs a session as kubelet and kubectl do over v4.channel.k8s.io.
func overSPDY(t *testing.T, url string, w want) *result {
	t.Helper()
	conn := dialSPDY(t, url, "v4.channel.k8s.io")
	defer conn.Close()
	open := func(kind string) httpstream.Stream {
		s, err := conn.CreateStream(http.Header{"Streamtype": {kind}})
		if err != nil {
			t.Fatalf("open stream %s: %v", kind, err)
		}
		return s
	}
	r := new(result)
	errs := open("error")
	var stdin, stderr httpstream.Stream
	if w.stdin != nil {
		stdin = open("stdin")
	}
	stdout := open("stdout")
	if w.stderr {
		stderr = open("stderr")
	}
	var resize httpstream.Stream
	if w.tty {
		resize = open("resize")
	}
	if w.hangUp != nil {
		w.hangUp()
		return r
	}
	var wg sync.WaitGroup
	if stdin != nil {
		wg.Go(func() {
			io.Copy(stdin, w.stdin)
			if !w.keepStdinOpen {
				stdin.Close()
			}
		})
	}
	for _, s := range w.sizes {
		resize.Write([]byte(s))
	}
	wg.Go(func() { io.Copy(&r.stdout, stdout) })
	if stderr != nil {
		wg.Go(func() { io.Copy(&r.stderr, stderr) })
	}
	b, _ := io.ReadAll(errs)
	r.status = string(b)
	wg.Wait() // for the end of each output, as client-go does
	return r
}

func dialWS(t *testing.T, url string, protocols ...string) *websocket.Conn {
	t.Helper()
	d := websocket.Dialer{Subprotocols: protocols, WriteBufferSize: 1024} // small: messages get fragmented
	ws, _, err := d.Dial("ws"+strings.TrimPrefix(url, "http"), nil)
	if err != nil {
		t.Fatal(err)
	}
	return ws
}

// overWS runs a session over a WebSocket protocol of channels. Only v5 has a half-close.
func overWS(t *testing.T, url string, w want, protocols ...string) *result {
	t.Helper()
	ws := dialWS(t, url, protocols...)
	defer ws.Close()
	r := new(result)
	if w.hangUp != nil {
		w.hangUp()
		return r
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, s := range w.sizes {
			ws.WriteMessage(websocket.BinaryMessage, append([]byte{4}, s...))
		}
		buf := make([]byte, 32<<10)
		for w.stdin != nil {
			n, err := w.stdin.Read(buf)
			if n > 0 {
				ws.WriteMessage(websocket.BinaryMessage, append([]byte{0}, buf[:n]...))
			}
			if err != nil {
				break
			}
		}
		if w.stdin != nil && ws.Subprotocol() == "v5.channel.k8s.io" && !w.keepStdinOpen {
			ws.WriteMessage(websocket.BinaryMessage, []byte{255, 0})
		}
	})
	for {
		_, msg, err := ws.ReadMessage()
		if err != nil {
			var ce *websocket.CloseError
			if !w.cut && (!errors.As(err, &ce) || ce.Code != websocket.CloseNormalClosure) {
				t.Errorf("%s: session ended with %v", ws.Subprotocol(), err)
			}
			break
		}
		switch msg[0] {
		case 1:
			r.stdout.Write(msg[1:])
		case 2:
			r.stderr.Write(msg[1:])
		case 3:
			r.status += string(msg[1:])
		}
	}
	wg.Wait()
	return r
}

// wsConn is a byte stream in binary messages, the client's side of a tunnel.
type wsConn struct {
	*websocket.Conn
	rest io.Reader
	mu   sync.Mutex
}

func (c *wsConn) Read(p []byte) (int, error) {
	for {
		if c.rest == nil {
			_, r, err := c.NextReader()
			if err != nil {
				return 0, io.EOF
			}
			c.rest = r
		}
		n, err := c.rest.Read(p)
		if errors.Is(err, io.EOF) {
			c.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *wsConn) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *wsConn) SetDeadline(at time.Time) error {
	return errors.Join(c.SetReadDeadline(at), c.SetWriteDeadline(at))
}

var _ net.Conn = (*wsConn)(nil)

// dialTunnel opens the SPDY connection inside a WebSocket.
func dialTunnel(t *testing.T, url string) httpstream.Connection {
	t.Helper()
	ws := dialWS(t, url, "SPDY/3.1+portforward.k8s.io")
	if got := ws.Subprotocol(); got != "SPDY/3.1+portforward.k8s.io" {
		t.Fatalf("sub-protocol %q", got)
	}
	conn, err := spdy.NewClientConnection(&wsConn{Conn: ws})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
