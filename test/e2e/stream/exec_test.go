package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"io"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"

	"k8s.io/client-go/tools/remotecommand"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// Exit codes, of processes that end and that are killed, and the two outputs, each in its own stream.
func TestExecExitCodes(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("codes", n.Dir))
	id := p.Start(harness.Command("c", "sleep 10000"))
	base(t, n, p.ID)
	for _, protocol := range protocols {
		for script, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255, "kill -KILL $$": 137, "kill -TERM $$": 143} {
			var out, errs bytes.Buffer
			err := session{node: n, id: id, protocol: protocol, out: &out, err: &errs, cmd: []string{"sh", "-c", "echo out; echo err >&2; " + script}}.run(t.Context(), t)
			if code(err) != want || out.String() != "out\n" || errs.String() != "err\n" {
				t.Errorf("%s %q: %v, %q, %q", protocol, script, err, out.String(), errs.String())
			}
		}
		var out bytes.Buffer
		err := session{node: n, id: id, protocol: protocol, out: &out, cmd: []string{"/no/such/program"}}.run(t.Context(), t)
		if err == nil || code(err) == 0 || !strings.Contains(err.Error(), "no such file") {
			t.Errorf("%s: a command that is not there: %v", protocol, err)
		}
	}
}

// The end of stdin reaches the process, which then still has something to say.
func TestExecHalfClose(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("half", n.Dir))
	id := p.Start(harness.Command("c", "sleep 10000"))
	base(t, n, p.ID)
	for _, protocol := range protocols {
		var out bytes.Buffer
		err := session{node: n, id: id, protocol: protocol, in: strings.NewReader("three little words"), out: &out, cmd: []string{"sh", "-c", "wc -w; sleep 1; echo after; exit 5"}}.run(t.Context(), t)
		if code(err) != 5 || strings.Join(strings.Fields(out.String()), " ") != "3 after" {
			t.Errorf("%s: %v, %q", protocol, err, out.String())
		}
		// Input that nobody takes does not hold up the end.
		err = session{node: n, id: id, protocol: protocol, in: zeros{}, out: &out, cmd: []string{"sh", "-c", "head -c 10 >/dev/null; exit 6"}}.run(t.Context(), t)
		if code(err) != 6 {
			t.Errorf("%s with endless input: %v", protocol, err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }

// noise is so many bytes that don't repeat, and their sum.
type noise struct {
	r    *rand.ChaCha8
	left int64
	sum  hash.Hash
}

func newNoise(size int64) *noise {
	return &noise{r: rand.NewChaCha8([32]byte{1}), left: size, sum: sha256.New()}
}

func (n *noise) Read(p []byte) (int, error) {
	if n.left == 0 {
		return 0, io.EOF
	}
	p = p[:min(int64(len(p)), n.left)]
	n.r.Read(p)
	n.sum.Write(p)
	n.left -= int64(len(p))
	return len(p), nil
}

// Much data goes in and comes out again as it was.
func TestExecBulk(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("bulk", n.Dir))
	id := p.Start(harness.Command("c", "sleep 10000"))
	base(t, n, p.ID)
	for _, protocol := range protocols {
		in, out := newNoise(*bulk<<20), sha256.New()
		if err := (session{node: n, id: id, protocol: protocol, in: in, out: out, cmd: []string{"cat"}}).run(t.Context(), t); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
		if !bytes.Equal(in.sum.Sum(nil), out.Sum(nil)) {
			t.Errorf("%s: %d MiB came back changed", protocol, *bulk)
		}
	}
}

// storm is a client that changes the size of its terminal a thousand times.
type storm struct {
	n    int
	done <-chan struct{}
}

func (s *storm) Next() *remotecommand.TerminalSize {
	if s.n < 1000 {
		s.n++
		return &remotecommand.TerminalSize{Width: uint16(s.n), Height: uint16(s.n % 7)} // some are zero
	}
	if s.n == 1000 {
		s.n++
		return &remotecommand.TerminalSize{Width: 123, Height: 45}
	}
	<-s.done
	return nil
}

// await is a writer that says when something was written.
type await struct {
	mu   sync.Mutex
	b    bytes.Buffer
	word string
	seen chan struct{}
	once sync.Once
}

func newAwait(word string) *await { return &await{word: word, seen: make(chan struct{})} }

func (a *await) Write(p []byte) (int, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.b.Write(p)
	if strings.Contains(a.b.String(), a.word) {
		a.once.Do(func() { close(a.seen) })
	}
	return len(p), nil
}

func (a *await) String() string {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.b.String()
}

// A storm of sizes, in exec and attach: the last one is in force in the end, and nothing else suffers.
func TestResizeStorm(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("resize", n.Dir))
	cfg := harness.Command("c", "while [ \"$(stty size)\" != '45 123' ]; do sleep 0.1; done; echo arrived; sleep 10000")
	cfg.Tty, cfg.Stdin = true, true
	for _, protocol := range protocols {
		cfg.Metadata.Name = protocol
		id := p.Start(cfg)
		for _, cmd := range [][]string{nil, {"sh", "-c", strings.Replace(cfg.Command[2], "10000", "20000", 1)}} {
			t.Run(fmt.Sprintf("%s attach=%t", protocol, cmd == nil), func(t *testing.T) {
				base(t, n, p.ID)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				out := newAwait("arrived")
				ended := make(chan error, 1)
				// ends when the client hangs up.
				go func() {
					ended <- session{node: n, id: id, protocol: protocol, in: blocked{ctx}, out: out, cmd: cmd, sizes: &storm{done: ctx.Done()}}.run(ctx, t)
				}()
				select {
				case <-out.seen:
				case err := <-ended:
					t.Fatalf("session ended: %v, %q", err, out)
				case <-after():
					t.Fatalf("the last size did not arrive: %q", out)
				}
				cancel()
				<-ended
				if cmd != nil {
					harness.Eventually(t, harness.Patience, "the command is gone with its client", func() bool {
						return !runs(t, n, id, "sleep 20000")
					})
				}
			})
		}
		if err := n.Runtime.StopContainer(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
	}
}

// blocked is input that never comes.
type blocked struct{ ctx context.Context }

func (b blocked) Read([]byte) (int, error) { <-b.ctx.Done(); return 0, io.EOF }
