package stream

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// lingerTime is how long a closed connection still swallows what the peer sends. Closing a socket with unread input
// resets it, and the reset can overtake the exit code (tcp(7), RFC 1122 4.2.2.13).
const lingerTime = 2 * time.Second

// endTime is how long a write to the client may take once its session's work is over: a client that takes nothing must
// not hold the session.
const endTime = time.Minute

// watchedWriter hands out the connection, once hijacked, as a watched one: after the hijack net/http no longer ends
// the request's context when the client goes.
type watchedWriter struct {
	http.ResponseWriter
	ctx  context.Context
	gone context.CancelFunc
	conn atomic.Pointer[watchedConn] // once hijacked
}

// over says that the session's work is done, and only its end is still to be told.
func (w *watchedWriter) over() {
	if c := w.conn.Load(); c != nil {
		c.over.Store(true)
		c.SetWriteDeadline(time.Time{})
	}
}

func (w *watchedWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h, ok := w.ResponseWriter.(http.Hijacker)
	if !ok {
		return nil, nil, fmt.Errorf("take over connection: %w", http.ErrNotSupported)
	}
	under, rw, err := h.Hijack()
	if err != nil {
		return nil, nil, err
	}
	conn := &watchedConn{Conn: under, gone: w.gone}
	w.conn.Store(conn)
	context.AfterFunc(w.ctx, func() { conn.Close() })
	// ends when the session does.
	go conn.watch(w.ctx)
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	in := bufio.NewReader(conn)
	if len(early) > 0 {
		in = bufio.NewReader(io.MultiReader(bytes.NewReader(bytes.Clone(early)), conn))
	}
	return conn, bufio.NewReadWriter(in, bufio.NewWriter(conn)), nil
}

// watchInterval is how often a connection is looked at that nobody may be reading.
const watchInterval = time.Second

// watchedConn calls gone when the peer closes its side or the connection breaks. Whoever reads notices at once; while
// a process does not take its stdin nobody reads, so watch looks from time to time.
type watchedConn struct {
	net.Conn
	gone context.CancelFunc
	once sync.Once
	over atomic.Bool
}

// SetWriteDeadline allows no more than endTime when the session is over.
func (c *watchedConn) SetWriteDeadline(at time.Time) error {
	if last := time.Now().Add(endTime); c.over.Load() && (at.IsZero() || at.After(last)) {
		at = last
	}
	return c.Conn.SetWriteDeadline(at)
}

func (c *watchedConn) SetDeadline(at time.Time) error {
	return errors.Join(c.SetReadDeadline(at), c.SetWriteDeadline(at))
}

// watch asks the socket whether the peer has closed (POLLRDHUP, poll(2)), which does not take reading what came before.
func (c *watchedConn) watch(ctx context.Context) {
	sc, ok := raw(c.Conn).(syscall.Conn)
	if !ok {
		return
	}
	sock, err := sc.SyscallConn()
	if err != nil {
		return
	}
	tick := time.NewTicker(watchInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		closed := false
		err := sock.Control(func(fd uintptr) {
			p := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
			n, _ := unix.Poll(p, 0)
			closed = n > 0 && p[0].Revents&(unix.POLLRDHUP|unix.POLLHUP|unix.POLLERR) != 0
		})
		if closed || err != nil {
			c.gone()
			return
		}
	}
}

func (c *watchedConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if err != nil {
		c.gone()
	}
	return n, err
}

// Close sends what is written, then the end; the peer has lingerTime to take it. The session is over.
func (c *watchedConn) Close() error {
	c.gone()
	c.once.Do(func() {
		tcp, ok := c.Conn.(interface{ CloseWrite() error })
		if !ok || tcp.CloseWrite() != nil {
			c.Conn.Close()
			return
		}
		c.Conn.SetReadDeadline(time.Now().Add(lingerTime))
		// ends when the peer closes, at the latest after lingerTime.
		go func() {
			io.Copy(io.Discard, c.Conn)
			c.Conn.Close()
		}()
	})
	return nil
}
