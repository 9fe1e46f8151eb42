package cgroup_test

import (
	"errors"
	"io/fs"
	"math"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/cgroup"
)

func TestStats(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	defer g.Close()
	mode, err := cgroup.Detect()
	if err != nil {
		t.Fatal(err)
	}
	before, err := g.Stats()
	if err != nil {
		t.Fatal(err)
	}
	if before.Memory.Limit != math.MaxUint64 || before.Memory.Available != nil {
		t.Errorf("unlimited memory is shown as %d, available %v", before.Memory.Limit, before.Memory.Available)
	}
	if err := g.Set(&cgroup.Resources{Memory: &cgroup.Memory{Limit: ptr[int64](64 << 20)}, Pids: &cgroup.Pids{Limit: ptr[int64](50)}}); err != nil {
		t.Fatal(err)
	}
	spawn(t, g, "x=$(head -c 8M /dev/zero | tr '\\0' x); while :; do :; done")
	deadline := time.Now().Add(time.Minute)
	for {
		s, err := g.Stats()
		if err != nil {
			t.Fatal(err)
		}
		if s.CPU.Usage > 50*time.Millisecond && s.Memory.RSS > 8<<20 {
			check(t, mode, s)
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing happens: %+v", s)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := g.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := g.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stats of a removed group: %v", err)
	}
}

func check(t *testing.T, mode cgroup.Mode, s cgroup.Stats) {
	if s.Time.IsZero() || s.Memory.WorkingSet == 0 || s.Memory.WorkingSet > s.Memory.Usage || s.Memory.Faults == 0 {
		t.Errorf("memory: %+v", s.Memory)
	}
	if s.Memory.Limit != 64<<20 || s.Memory.Available == nil || *s.Memory.Available != 64<<20-s.Memory.WorkingSet {
		t.Errorf("limit %d, available %v, working set %d", s.Memory.Limit, s.Memory.Available, s.Memory.WorkingSet)
	}
	if s.Pids.Current == 0 || s.Pids.Limit != 50 {
		t.Errorf("pids: %+v", s.Pids)
	}
	if mode != cgroup.Legacy && s.CPU.PSI == nil {
		t.Error("no CPU pressure")
	}
}

// TestStatsRemovedUnder removes a group whose counters are open elsewhere.
func TestStatsRemovedUnder(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	other, err := cgroup.Open(g.Path())
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close()
	if _, err := other.Stats(); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := other.Stats(); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Stats: %v", err)
	}
}

func BenchmarkStats(b *testing.B) {
	g := newGroup(b)
	defer g.Close()
	spawn(b, g, "exec sleep 1000")
	for b.Loop() {
		if _, err := g.Stats(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkCreateRemove(b *testing.B) {
	g := newGroup(b)
	for b.Loop() {
		c, err := cgroup.Create(g.Path()+"x", cgroup.Cgroupfs)
		if err != nil {
			b.Fatal(err)
		}
		if err := c.Remove(b.Context()); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkSet(b *testing.B) {
	g := newGroup(b)
	r := &cgroup.Resources{
		CPU:    &cgroup.CPU{Shares: ptr[uint64](100), Quota: ptr[int64](50000), Period: ptr[uint64](100000)},
		Memory: &cgroup.Memory{Limit: ptr[int64](64 << 20), Swap: ptr[int64](64 << 20)},
		Pids:   &cgroup.Pids{Limit: ptr[int64](50)},
	}
	for b.Loop() {
		if err := g.Set(r); err != nil {
			b.Fatal(err)
		}
	}
}

// Detail has what Stats has, keeps its files, and ends as Stats does when the group is gone.
func TestDetail(t *testing.T) {
	t.Parallel()
	g := newGroup(t)
	defer g.Close()
	spawn(t, g, "x=$(head -c 4M /dev/zero | tr '\\0' x); while :; do :; done")
	deadline := time.Now().Add(time.Minute)
	for {
		d, err := cgroup.DetailOf(g)
		if err != nil {
			t.Fatal(err)
		}
		if d.MemoryPeak > 4<<20 && d.Memory.RSS > 4<<20 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("nothing happens: %+v", d)
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := g.Kill(soon(t)); err != nil {
		t.Fatal(err)
	}
	if err := g.Remove(soon(t)); err != nil {
		t.Fatal(err)
	}
	if _, err := cgroup.DetailOf(g); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Detail of a removed group: %v", err)
	}
}
