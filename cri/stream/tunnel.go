package stream

import (
	"bufio"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/streaming/pkg/httpstream"
	"k8s.io/streaming/pkg/httpstream/spdy"
)

// tunnel accepts a WebSocket whose messages are the bytes of a SPDY connection, and returns a writer and a request
// that look like the upgrade to that SPDY connection: the side within speaks no HTTP any more.
func (s *Server) tunnel(w http.ResponseWriter, r *http.Request) (http.ResponseWriter, *http.Request, error) {
	up := websocket.Upgrader{
		Subprotocols: []string{portforward.WebsocketsSPDYTunnelingPortForwardV1},
		CheckOrigin:  func(*http.Request) bool { return true }, // the token is the credential
	}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		return nil, nil, err
	}
	inner := r.Clone(r.Context())
	inner.Header = http.Header{}
	inner.Header.Set(httpstream.HeaderConnection, httpstream.HeaderUpgrade)
	inner.Header.Set(httpstream.HeaderUpgrade, spdy.HeaderSpdy31)
	inner.Header.Set(httpstream.HeaderProtocolVersion, portforward.ProtocolV1Name)
	return &tunnelWriter{header: http.Header{}, conn: &tunnelConn{ws: ws}}, inner, nil
}

// tunnelWriter answers an upgrade that has happened already: its response goes nowhere.
type tunnelWriter struct {
	header http.Header
	conn   *tunnelConn
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) Write(p []byte) (int, error) { return len(p), nil }
func (t *tunnelWriter) WriteHeader(int)             {}

func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}

// tunnelConn is the byte stream inside the binary messages of a WebSocket.
type tunnelConn struct {
	ws    *websocket.Conn
	rest  io.Reader  // of the message being read; one reader at a time
	write sync.Mutex // one message at a time
	once  sync.Once
}

func (t *tunnelConn) Read(p []byte) (int, error) {
	for {
		if t.rest == nil {
			kind, r, err := t.ws.NextReader()
			if err != nil {
				return 0, io.EOF
			}
			if kind != websocket.BinaryMessage {
				continue
			}
			t.rest = r
		}
		n, err := t.rest.Read(p)
		if errors.Is(err, io.EOF) {
			t.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (t *tunnelConn) Write(p []byte) (int, error) {
	t.write.Lock()
	defer t.write.Unlock()
	if err := t.ws.WriteMessage(websocket.BinaryMessage, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (t *tunnelConn) Close() error {
	t.once.Do(func() {
		t.ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(lingerTime))
		t.ws.Close()
	})
	return nil
}

func (t *tunnelConn) LocalAddr() net.Addr                 { return t.ws.LocalAddr() }
func (t *tunnelConn) RemoteAddr() net.Addr                { return t.ws.RemoteAddr() }
func (t *tunnelConn) SetReadDeadline(at time.Time) error  { return t.ws.SetReadDeadline(at) }
func (t *tunnelConn) SetWriteDeadline(at time.Time) error { return t.ws.SetWriteDeadline(at) }

func (t *tunnelConn) SetDeadline(at time.Time) error {
	return errors.Join(t.ws.SetReadDeadline(at), t.ws.SetWriteDeadline(at))
}
