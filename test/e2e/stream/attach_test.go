package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"io"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

func after() <-chan time.Time { return time.After(harness.Patience) }

// stuck is a client that takes something and then nothing more, until it is let go.
type stuck struct {
	got  chan struct{}
	once sync.Once
	ctx  context.Context
}

func (s *stuck) Write([]byte) (int, error) {
	s.once.Do(func() { close(s.got) })
	<-s.ctx.Done()
	return 0, io.ErrClosedPipe
}

// Many clients get all output of a container, and one that does not read keeps neither them nor the container nor its
// log from going on.
func TestAttachSlowClient(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("slow", n.Dir))
	// Together more than the slow client's sockets, pipe and spill take. A piece is sent when all others have the last
	// one: on a busy machine they may be slow, too.
	const pieces, piece = 20, 4 << 20
	cfg := harness.Command("c", "while read x; do head -c 4194304 /dev/zero | tr '\\0' x; done; exit 3")
	cfg.Stdin, cfg.StdinOnce = true, true
	for _, protocol := range protocols {
		t.Run(protocol, func(t *testing.T) {
			cfg.Metadata.Name, cfg.LogPath = protocol, protocol+".log"
			id := p.Start(cfg)
			base(t, n, p.ID)
			before := attached(t, n, p.ID)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			slow := &stuck{got: make(chan struct{}), ctx: ctx}
			slowEnd := make(chan error, 1)
			// ends when let go.
			go func() {
				slowEnd <- session{node: n, id: id, protocol: protocol, out: slow, err: io.Discard}.run(ctx, t)
			}()
			var all sync.WaitGroup
			sums := make([]*counted, 8)
			for i := range sums {
				sums[i] = new(counted)
				s := session{node: n, id: id, protocol: protocol, out: sums[i], err: io.Discard}
				all.Go(func() {
					if err := s.run(ctx, t); err != nil {
						t.Errorf("client %d: %v", i, err)
					}
				})
			}
			r, w := io.Pipe()
			all.Go(func() {
				if err := (session{node: n, id: id, protocol: protocol, in: r, out: io.Discard}).run(ctx, t); err != nil {
					t.Errorf("client with input: %v", err)
				}
			})
			// Who is attached later than a piece is sent does not get it. Nine have two outputs, the one with input has one.
			harness.Eventually(t, harness.Patience, "ten are attached", func() bool { return attached(t, n, p.ID) >= before+2*9+1 })
			for i := range pieces {
				io.WriteString(w, "go\n")
				harness.Eventually(t, harness.Patience, "all have got the piece", func() bool {
					return !slices.ContainsFunc(sums, func(c *counted) bool { return c.n.Load() < int64(i+1)*piece })
				})
			}
			w.Close()
			s := n.Exited(t, id)
			if s.ExitCode != 3 {
				t.Errorf("exit code %d", s.ExitCode)
			}
			all.Wait()
			for i, c := range sums {
				if got := c.n.Load(); got != pieces*piece {
					t.Errorf("client %d got %d bytes of %d", i, got, pieces*piece)
				}
			}
			if got := p.Log(protocol+".log", "stdout"); strings.Count(got, "x") != pieces*piece {
				t.Errorf("log has %d bytes", len(got))
			}
			select {
			case <-slow.got:
			default:
				t.Error("the slow client was never attached")
			}
			cancel()
			<-slowEnd
		})
	}
}

// attached counts the pipes that the pod's monitor writes to: containers' inputs, and the outputs of clients.
func attached(t *testing.T, n *harness.Node, pod string) int {
	t.Helper()
	if n.Root == "" {
		time.Sleep(5 * time.Second) // foreign: there is nothing to look at
		return int(time.Now().Unix())
	}
	return pipesOf(t, monitorOf(t, pod))
}

// counted counts what is written.
type counted struct{ n atomic.Int64 }

func (c *counted) Write(p []byte) (int, error) { c.n.Add(int64(len(p))); return len(p), nil }

// The end of the first client's input is the container's with stdin_once, and is not without.
func TestAttachHalfClose(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("once", n.Dir))
	for _, protocol := range protocols {
		cfg := harness.Command("once-"+protocol, "cat; echo end; exit 4")
		cfg.Stdin, cfg.StdinOnce = true, true
		id := p.Start(cfg)
		in, out := newNoise(8<<20), sha256.New()
		var tail bytes.Buffer
		if err := (session{node: n, id: id, protocol: protocol, in: in, out: io.MultiWriter(&limited{w: out, left: 8 << 20, rest: &tail})}).run(t.Context(), t); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
		if !bytes.Equal(in.sum.Sum(nil), out.Sum(nil)) || tail.String() != "end\n" {
			t.Errorf("%s: what came back was changed, or did not end: %q", protocol, tail.String())
		}
		if s := n.Exited(t, id); s.ExitCode != 4 {
			t.Errorf("%s: exit code %d", protocol, s.ExitCode)
		}
		more := harness.Command("more-"+protocol, "while read x; do echo got $x; done; echo end")
		more.Stdin = true
		id = p.Start(more)
		for _, word := range []string{"one", "two"} {
			out := newAwait("got " + word)
			ctx, cancel := context.WithCancel(t.Context())
			ended := make(chan struct{})
			// ends when the client hangs up.
			go func() {
				defer close(ended)
				session{node: n, id: id, protocol: protocol, in: strings.NewReader(word + "\n"), out: out}.run(ctx, t)
			}()
			select {
			case <-out.seen:
			case <-after():
				t.Fatalf("%s: %q did not arrive: %q", protocol, word, out)
			}
			cancel()
			<-ended
		}
		if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%s: without stdin_once the container ended: %v", protocol, s)
		}
	}
}

// limited passes on the first bytes and puts the rest elsewhere.
type limited struct {
	w    io.Writer
	left int
	rest *bytes.Buffer
}

func (l *limited) Write(p []byte) (int, error) {
	n := min(len(p), l.left)
	l.w.Write(p[:n])
	l.left -= n
	l.rest.Write(p[n:])
	return len(p), nil
}
