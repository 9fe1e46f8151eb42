package stream

import (
	"container/list"
	"net"
	"net/http"
	"sync"
)

// waiting are the connections that have not begun a session: in the TLS handshake, sending their header slowly, or
// just come. Whoever can reach the port can open them, so there is room for some; when one too many comes, the one that
// waits longest is closed. An honest client needs milliseconds, so that it is never the oldest for long.
type waiting struct {
	max int
	mu  sync.Mutex
	in  list.List // of net.Conn, the oldest first
	at  map[net.Conn]*list.Element
}

// state is http.Server's ConnState. Hijacked means that a session has begun.
func (w *waiting) state(c net.Conn, s http.ConnState) {
	var victim net.Conn
	w.mu.Lock()
	switch s {
	case http.StateNew:
		if w.at == nil {
			w.at = make(map[net.Conn]*list.Element)
		}
		w.at[c] = w.in.PushBack(c)
		if w.in.Len() > w.max {
			victim = w.in.Remove(w.in.Front()).(net.Conn)
			delete(w.at, victim)
		}
	case http.StateHijacked, http.StateClosed:
		if e, ok := w.at[c]; ok {
			w.in.Remove(e)
			delete(w.at, c)
		}
	}
	w.mu.Unlock()
	if victim != nil {
		raw(victim).Close() // not the TLS connection: that would wait to say goodbye
	}
}

// places are a bounded number of sessions.
type places struct {
	max int
	mu  sync.Mutex
	n   int
}

// take takes a place if there is one.
func (p *places) take() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.n >= p.max {
		return false
	}
	p.n++
	return true
}

func (p *places) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.n--
}

func (p *places) full() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.n >= p.max
}

// raw is the socket below a TLS connection.
func raw(c net.Conn) net.Conn {
	if t, ok := c.(interface{ NetConn() net.Conn }); ok {
		return t.NetConn()
	}
	return c
}
