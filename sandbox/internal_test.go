package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

func TestLookup(t *testing.T) {
	t.Parallel()
	a, b := strings.Repeat("a", 64), strings.Repeat("a", 63)+"b"
	all := map[string]int{a: 1, b: 2}
	for _, tc := range []struct {
		id   string
		want int
		err  error
	}{
		{a, 1, nil}, {b, 2, nil}, {"", 0, fs.ErrInvalid}, {"c", 0, fs.ErrNotExist}, {"aa", 0, fs.ErrInvalid},
		{strings.Repeat("a", 63) + "b", 2, nil}, {"../../etc", 0, fs.ErrNotExist}, {strings.Repeat("x", 5000), 0, fs.ErrNotExist},
	} {
		got, err := lookup(all, "pod", tc.id)
		if got != tc.want || !errors.Is(err, tc.err) {
			t.Errorf("lookup(%.10q) = %d, %v; want %d, %v", tc.id, got, err, tc.want, tc.err)
		}
		if err != nil && len(err.Error()) > 200 {
			t.Errorf("lookup(%.10q): error text of %d bytes repeats the input", tc.id, len(err.Error()))
		}
	}
}

func TestNewIDIsValid(t *testing.T) {
	t.Parallel()
	if id := newID(); !validID(id) || id == newID() {
		t.Fatalf("id %q", id)
	}
	for _, bad := range []string{"", "..", strings.Repeat("A", 64), strings.Repeat("a", 63), strings.Repeat("a", 63) + "/"} {
		if validID(bad) {
			t.Errorf("validID(%q)", bad)
		}
	}
}

// Many clients that ask for the same thing at once share one piece of work.
func TestOperationsJoin(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operations
		var ran atomic.Int32
		fn := func(ctx context.Context, op *operation) (string, error) {
			ran.Add(1)
			op.at("sleep")
			time.Sleep(time.Second)
			return "id", nil
		}
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				id, err := ops.do(context.Background(), request{"k", "d", time.Minute}, fn)
				if id != "id" || err != nil {
					t.Errorf("do = %q, %v", id, err)
				}
			})
		}
		all.Wait()
		if n := ran.Load(); n != 1 {
			t.Errorf("the work ran %d times", n)
		}
	})
}

// A client's deadline ends its waiting with the phase in the text; the work goes on, and a retry gets its result.
func TestOperationOutlivesCaller(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operations
		fn := func(ctx context.Context, op *operation) (string, error) {
			op.at("attach network")
			select {
			case <-time.After(3 * time.Second):
				return "late", nil
			case <-ctx.Done():
				return "", ctx.Err()
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		_, err := ops.do(ctx, request{"run pod a", "d", time.Minute}, fn)
		if !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "attach network") {
			t.Fatalf("err = %v", err)
		}
		if _, err := ops.do(context.Background(), request{"run pod a", "other", time.Minute}, fn); !errors.Is(err, fs.ErrExist) {
			t.Fatalf("another request under the same key: %v", err)
		}
		id, err := ops.do(context.Background(), request{"run pod a", "d", time.Minute}, fn)
		if id != "late" || err != nil {
			t.Fatalf("retry = %q, %v", id, err)
		}
		if err := ops.drain(context.Background()); err != nil {
			t.Fatal(err)
		}
	})
}

func TestOperationBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var ops operations
		_, err := ops.do(context.Background(), request{"k", "", time.Second}, func(ctx context.Context, _ *operation) (string, error) {
			<-ctx.Done()
			return "", fmt.Errorf("plugin: %w", ctx.Err())
		})
		if !errors.Is(err, context.DeadlineExceeded) {
			t.Fatal(err)
		}
	})
}

func TestEndOf(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		e      wire.Exit
		code   int32
		reason string
	}{
		{wire.Exit{Code: 0}, 0, "Completed"},
		{wire.Exit{Code: 1}, 1, "Error"},
		{wire.Exit{Code: 143}, 143, "Error"},
		{wire.Exit{Code: 137, OOMKilled: true}, 137, "OOMKilled"},
		{wire.Exit{Code: 0, OOMKilled: true}, 0, "Completed"}, // a worker was killed, the container completed
		{wire.Exit{Code: 1, OOMKilled: true}, 1, "Error"},
		{wire.Exit{Code: 137}, 137, "Error"},
	} {
		v := endOf(tc.e)
		if v.code != tc.code || v.reason != tc.reason {
			t.Errorf("endOf(%+v) = %d %s, want %d %s", tc.e, v.code, v.reason, tc.code, tc.reason)
		}
	}
}

func TestCPUSample(t *testing.T) {
	t.Parallel()
	s := cpuSample{}.next(1e9, 5e8)
	if s.known {
		t.Fatal("one sample is no rate")
	}
	s = s.next(2e9, 10e8)
	if !s.known || s.cores != 5e8 {
		t.Fatalf("half a core: %+v", s)
	}
	if got := s.next(2e9+1e6, 11e8); got != s {
		t.Fatalf("samples a millisecond apart: %+v", got)
	}
	if got := s.next(3e9, 1); got.cores != 0 {
		t.Fatalf("a counter that went back: %+v", got)
	}
}

func TestContainerViewMovesForward(t *testing.T) {
	t.Parallel()
	c := &Container{exit: make(chan struct{})}
	c.view.Store(&containerView{startedAt: 100})
	if !c.finish(containerView{finishedAt: 50, code: 3}) {
		t.Fatal("first end not taken")
	}
	if c.finish(containerView{finishedAt: 60, code: 4}) {
		t.Fatal("second end taken")
	}
	v := c.view.Load()
	if v.code != 3 || v.finishedAt < v.startedAt || v.state() != rt.ContainerState_CONTAINER_EXITED {
		t.Fatalf("%+v", v)
	}
}

func TestEventsReachEverySubscriber(t *testing.T) {
	t.Parallel()
	m := new(Manager)
	ctx, cancel := context.WithCancel(context.Background())
	a, b := m.Events(ctx), m.Events(ctx)
	const n = 1000
	for i := range n {
		m.events.publish(&rt.ContainerEventResponse{ContainerId: fmt.Sprint(i), CreatedAt: int64(n - i)})
	}
	for _, ch := range []<-chan *rt.ContainerEventResponse{a, b} {
		last := int64(0)
		for i := range n {
			e := <-ch
			if e.ContainerId != fmt.Sprint(i) || e.CreatedAt <= last {
				t.Fatalf("event %d: id %s at %d after %d", i, e.ContainerId, e.CreatedAt, last)
			}
			last = e.CreatedAt
		}
	}
	cancel()
	for range a {
	}
}

// A subscriber that never reads costs a bounded queue and nobody's time.
func TestEventsCutOffLaggard(t *testing.T) {
	t.Parallel()
	m := new(Manager)
	ch := m.Events(t.Context())
	for range 2*maxBacklog + 10 {
		m.events.publish(&rt.ContainerEventResponse{})
	}
	n := 0
	for range ch {
		n++
	}
	if n > maxBacklog+1 {
		t.Fatalf("%d events were kept", n)
	}
}

func TestMatches(t *testing.T) {
	t.Parallel()
	l := map[string]string{"a": "1", "b": ""}
	for _, tc := range []struct {
		sel  map[string]string
		want bool
	}{{nil, true}, {map[string]string{"a": "1"}, true}, {map[string]string{"a": "1", "b": ""}, true}, {map[string]string{"c": ""}, false}, {map[string]string{"a": "2"}, false}} {
		if got := matches(l, tc.sel); got != tc.want {
			t.Errorf("matches(%v) = %v", tc.sel, got)
		}
	}
}
