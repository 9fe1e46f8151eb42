package sandbox

import (
	"bytes"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// lazy is a client that takes a little at a time and then rests.
type lazy struct {
	got  bytes.Buffer // a field: its ReadFrom must not be found
	rest time.Duration
}

func (l *lazy) Write(p []byte) (int, error) { time.Sleep(l.rest); return l.got.Write(p) }
func (l *lazy) Close() error                { return nil }

// What a process has written is delivered to a client that is slower than the time others may hold the pipe open.
func TestSlowClientGetsAll(t *testing.T) {
	t.Parallel()
	p, err := openPipes(false, true, false)
	if err != nil {
		t.Fatal(err)
	}
	defer p.closeOurs()
	text := strings.Repeat("x", 2<<15) // more than one read of io.Copy, and a full pipe
	if _, err := p.theirs[1].WriteString(text); err != nil {
		t.Fatal(err)
	}
	client := &lazy{rest: drainTime + time.Second}
	p.copy(nil, client, nil)
	p.bound() // the pipe is still held open
	if err := p.deliver(t.Context(), p.done()); err != nil {
		t.Error(err)
	}
	if client.got.String() != text {
		t.Errorf("%d bytes of %d", client.got.Len(), len(text))
	}
	p.closeTheirs()
}

// Whoever is left behind with the pipe holds nobody up, silent or not.
func TestHeldPipe(t *testing.T) {
	t.Parallel()
	for name, chatty := range map[string]bool{"silent": false, "chatty": true} {
		r, w, err := pipe(true)
		if err != nil {
			t.Fatal(err)
		}
		var moved atomic.Int64
		o := &output{f: r, moved: &moved}
		var stop atomic.Bool
		stopped := make(chan struct{})
		// ends when told.
		go func() {
			defer close(stopped)
			for chatty && !stop.Load() {
				w.Write(make([]byte, 1024))
			}
		}()
		o.bound()
		if _, err := io.Copy(io.Discard, o); !os.IsTimeout(err) {
			t.Errorf("%s: %v", name, err)
		}
		stop.Store(true)
		r.Close()
		<-stopped
		w.Close()
	}
}
