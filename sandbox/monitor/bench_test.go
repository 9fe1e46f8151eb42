package monitor_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// startB is start for benchmarks.
func startB(b *testing.B) (*monitor.Monitor, string) {
	b.Helper()
	dir := b.TempDir()
	m, err := monitor.Start(b.Context(), monitor.Config{Bin: bin.monitor, Dir: dir})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		if err := m.Shutdown(context.Background()); err != nil {
			b.Error(err)
		}
	})
	return m, dir
}

// One exec of the cheapest program, through a monitor.
func BenchmarkRun(b *testing.B) {
	m, dir := startB(b)
	for i := 0; b.Loop(); i++ {
		s := wire.Spawn{ID: "r" + strconv.Itoa(i), Argv: []string{"/bin/true"}, Dir: dir}
		if _, _, err := m.Run(b.Context(), s, nil); err != nil {
			b.Fatal(err)
		}
		<-m.Exits()
	}
	b.ReportMetric(float64(rss(b, m.Pid())), "KiB-RSS")
}

// A container that writes lines as fast as it can.
func BenchmarkLog(b *testing.B) {
	for _, size := range []int{32, 128, 4096} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			m, dir := startB(b)
			const mib = 256
			b.SetBytes(mib << 20)
			i := 0
			for b.Loop() {
				s := plain(dir, "f"+strconv.Itoa(i), "bytes", strconv.Itoa(mib), strconv.Itoa(size))
				i++
				if _, _, err := m.Run(b.Context(), s, nil); err != nil {
					b.Fatal(err)
				}
				<-m.Exits()
				os.Remove(s.Log)
			}
			b.ReportMetric(float64(rss(b, m.Pid())), "KiB-RSS")
		})
	}
}

// rss is the resident memory of a process in KiB.
func rss(t testing.TB, pid int) int {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		t.Fatal(err)
	}
	_, rest, _ := strings.Cut(string(text), "VmRSS:")
	n, err := strconv.Atoi(strings.Fields(rest)[0])
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The budget of limits: binary, memory when idle, with ten containers, and after use. The race detector has another.
func TestWeight(t *testing.T) {
	m, dir := start(t)
	if st, err := os.Stat(bin.monitor); err != nil || st.Size() > 2_500_000 {
		t.Errorf("binary has %d bytes, %v", st.Size(), err)
	}
	if _, err := m.List(t.Context()); err != nil {
		t.Fatal(err)
	}
	time.Sleep(50 * time.Millisecond)
	check := func(when string, limit int) {
		if got := rss(t, m.Pid()); got > limit {
			t.Errorf("%s: %d KiB, limit %d", when, got, limit)
		} else {
			t.Logf("%s: %d KiB", when, got)
		}
	}
	check("idle", 3000)
	for i := range 10 {
		s := plain(dir, "c"+strconv.Itoa(i), "sleep")
		s.Argv = []string{"/bin/sleep", "1000"}
		run(t, m, s)
	}
	check("ten containers", 4000)
	for i := range 300 {
		s := plain(dir, "x"+strconv.Itoa(i), "exit", "0")
		s.Argv, s.Log, s.ExitFile = []string{"/bin/true"}, "", ""
		run(t, m, s)
		waitExit(t, m, s.ID)
	}
	check("after 300 execs", 4000)
	s := plain(dir, "flood", "bytes", "64", "100")
	run(t, m, s)
	waitExit(t, m, "flood")
	if st, err := os.Stat(filepath.Join(dir, "logs", "flood", "0.log")); err != nil || st.Size() < 64<<20 {
		t.Error(st, err)
	}
	check("after 64 MiB of log", 4000)
}

// A monitor from nothing to its first answer; and to the return of Start alone, which is what a pod's start waits for.
func BenchmarkStart(b *testing.B) {
	var started time.Duration
	for b.Loop() {
		dir := b.TempDir()
		t := time.Now()
		m, err := monitor.Start(b.Context(), monitor.Config{Bin: bin.monitor, Dir: dir})
		if err != nil {
			b.Fatal(err)
		}
		started += time.Since(t)
		if _, err = m.List(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StopTimer()
		if err = m.Shutdown(b.Context()); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
	b.ReportMetric(float64(started.Microseconds())/float64(b.N), "µs-Start")
}
