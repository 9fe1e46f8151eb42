package stream

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/berth-runtime/berth/sandbox"
)

// v5 is a WebSocket in the v5.channel.k8s.io protocol: every binary message begins with the number of its channel,
// and a message of channel 255 closes the channel it names.
type v5 struct {
	ws   *websocket.Conn
	idle time.Duration
	mu   sync.Mutex // one writer at a time
}

// channel is the writing end of one channel.
type channel struct {
	c *v5
	n byte
}

func (ch channel) Write(p []byte) (int, error) {
	ch.c.mu.Lock()
	defer ch.c.mu.Unlock()
	idle := time.Now().Add(ch.c.idle)
	ch.c.ws.SetWriteDeadline(idle)
	ch.c.ws.SetReadDeadline(idle) // output is traffic, too
	w, err := ch.c.ws.NextWriter(websocket.BinaryMessage)
	if err != nil {
		return 0, err
	}
	if _, err := w.Write([]byte{ch.n}); err != nil {
		return 0, err
	}
	if _, err := w.Write(p); err != nil {
		return 0, err
	}
	return len(p), w.Close()
}

// Close does nothing: the protocol closes no channel towards the client, the status does.
func (ch channel) Close() error { return nil }

// serveV5 runs an exec or attach session over v5.channel.k8s.io.
func (s *Server) serveV5(w http.ResponseWriter, r *http.Request, x session) {
	up := websocket.Upgrader{
		Subprotocols: []string{remotecommand.StreamProtocolV5Name},
		CheckOrigin:  func(*http.Request) bool { return true }, // the token is the credential
	}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		s.opt.Log.Debug("upgrade to websocket", "err", err)
		return
	}
	c := &v5{ws: ws, idle: s.opt.IdleTimeout}
	defer ws.Close()
	stdin, feed := io.Pipe()
	sizes := make(chan sandbox.Size, 1)
	// ends when the connection ends: ws is closed on return.
	go func() {
		err := c.receive(feed, sizes)
		feed.CloseWithError(err)
		close(sizes)
		ws.UnderlyingConn().Close()
	}()
	// An empty message tells the client that it is connected; some wait for it.
	channel{c, remotecommand.StreamStdOut}.Write(nil)
	code, err := x.run(streams{stdin, channel{c, remotecommand.StreamStdOut}, channel{c, remotecommand.StreamStdErr}, sizes})
	stdin.Close()
	status, _ := json.Marshal(statusOf(x.exec, code, err))
	channel{c, remotecommand.StreamErr}.Write(status)
	c.mu.Lock()
	defer c.mu.Unlock()
	ws.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(websocket.CloseNormalClosure, ""), time.Now().Add(lingerTime))
}

// receive takes the client's messages until it closes or the connection breaks. Stdin that nobody reads holds up the
// rest, as in every version of this protocol: a WebSocket has no flow control of its own.
func (c *v5) receive(stdin *io.PipeWriter, sizes chan sandbox.Size) error {
	alive := func() { c.ws.SetReadDeadline(time.Now().Add(c.idle)) }
	answer := c.ws.PingHandler()
	c.ws.SetPingHandler(func(data string) error {
		alive()
		return answer(data)
	})
	var head [1]byte
	for {
		alive()
		kind, r, err := c.ws.NextReader()
		if err != nil {
			return io.ErrUnexpectedEOF
		}
		if kind != websocket.BinaryMessage {
			continue
		}
		if _, err := io.ReadFull(r, head[:]); err != nil {
			continue
		}
		switch head[0] {
		case remotecommand.StreamStdIn:
			// An error means that nobody reads stdin any more; the message is skipped by NextReader.
			io.Copy(stdin, r)
		case remotecommand.StreamResize:
			var size sandbox.Size
			if json.NewDecoder(io.LimitReader(r, 1024)).Decode(&size) == nil {
				offer(sizes, size)
			}
		case remotecommand.StreamClose:
			if _, err := io.ReadFull(r, head[:]); err == nil && head[0] == remotecommand.StreamStdIn {
				stdin.Close()
			}
		}
	}
}

// status is the object that ends a session on the error channel: the parts of meta/v1 Status that clients read.
type status struct {
	Status  string   `json:"status"`
	Message string   `json:"message,omitempty"`
	Reason  string   `json:"reason,omitempty"`
	Details *details `json:"details,omitempty"`
	Code    int      `json:"code,omitempty"`
}

type details struct {
	Causes []cause `json:"causes"`
}

type cause struct {
	Type    string `json:"reason"`
	Message string `json:"message"`
}

func statusOf(exec bool, code int, err error) status {
	switch {
	case err == nil && code == 0:
		return status{Status: "Success"}
	case err != nil:
		verb := "attach to"
		if exec {
			verb = "exec in"
		}
		return status{Status: "Failure", Reason: "InternalError", Code: http.StatusInternalServerError,
			Message: fmt.Sprintf("%s container: %v", verb, err)}
	}
	return status{
		Status: "Failure", Reason: remotecommand.NonZeroExitCodeReason,
		Message: fmt.Sprintf("command terminated with exit code %d", code),
		Details: &details{Causes: []cause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(code)}}},
	}
}
