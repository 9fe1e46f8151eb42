package sandbox

import (
	"errors"
	"io/fs"
	"strings"
	"testing"

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
