package monitor_test

import (
	"fmt"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor"
)

// Many things at once, in any order; what counts is that nothing is left and no exit is missing.
func TestStorm(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	if _, err := m.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	fds := func() int { return descriptors(m.Pid()) }
	before := fds()
	const workers, rounds = 6, 12
	var wg sync.WaitGroup
	for w := range workers {
		wg.Go(func() {
			for r := range rounds {
				storm(t, m, dir, fmt.Sprintf("s%d-%d", w, r), r)
			}
		})
	}
	wg.Wait()
	seen := map[string]bool{}
	for len(seen) < workers*rounds {
		select {
		case x := <-m.Exits():
			if seen[x.ID] {
				t.Errorf("%s ended twice", x.ID)
			}
			seen[x.ID] = true
		case <-time.After(patience):
			t.Fatalf("%d exits of %d", len(seen), workers*rounds)
		}
	}
	eventually(t, "as many descriptors as before", func() bool { return fds() == before })
	if l, err := m.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("%+v %v", l, err)
	}
	eventually(t, "no children", func() bool { return len(children(m.Pid())) == 0 })
}

// storm is one process of the storm.
func storm(t *testing.T, m *monitor.Monitor, dir, id string, round int) {
	s := spawn(dir, id, round%3*10, "tick")
	if round%2 == 0 {
		s = plain(dir, id, "cat")
		s.TTY = round%4 == 0
	}
	s.Stdin = true
	if _, _, err := m.Run(t.Context(), s, nil); err != nil {
		t.Error(err)
		return
	}
	for range round % 3 {
		r, w, err := os.Pipe()
		if err != nil {
			t.Error(err)
			return
		}
		defer r.Close() // a client that never reads, and goes
		if err = m.AttachIO(t.Context(), id, nil, w, nil); err != nil {
			t.Error(err)
		}
		w.Close()
	}
	if err := m.ReopenLog(t.Context(), id); err != nil {
		t.Error(err)
	}
	if err := m.Signal(t.Context(), id, syscall.SIGKILL); err != nil {
		t.Error(err)
	}
}
