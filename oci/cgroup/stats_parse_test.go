package cgroup

import (
	"testing"
	"time"
)

func TestParseV2(t *testing.T) {
	t.Parallel()
	s := Stats{Memory: MemoryStats{Usage: 1000, Limit: unlimited}}
	parseCPU([]byte("usage_usec 30\nuser_usec 20\nsystem_usec 10\nnice_usec 5\nnr_periods 4\nnr_throttled 3\nthrottled_usec 2\n"), &s)
	want := CPUStats{Usage: 30 * time.Microsecond, User: 20 * time.Microsecond, System: 10 * time.Microsecond, Periods: 4, Throttled: 3, Waited: 2 * time.Microsecond}
	if s.CPU != want {
		t.Errorf("cpu %+v", s.CPU)
	}
	parseMemoryV2([]byte("anon 7\nfile 3\ninactive_file 400\npgfault 9\npgmajfault 2\n"), &s)
	if s.Memory != (MemoryStats{Usage: 1000, WorkingSet: 600, RSS: 7, Limit: unlimited, Faults: 9, Major: 2, Cache: 3, InactiveFile: 400}) {
		t.Errorf("memory %+v", s.Memory)
	}
	parseMemoryV2([]byte("inactive_file 4000\n"), &s)
	if s.Memory.WorkingSet != 0 {
		t.Errorf("working set %d, want the floor", s.Memory.WorkingSet)
	}
	s.Swap.Usage = 10
	if parseSwapV2([]byte("max\n"), &s); s.Swap.Available != nil {
		t.Errorf("unlimited swap: %d available", *s.Swap.Available)
	}
	if parseSwapV2([]byte("30\n"), &s); s.Swap.Available == nil || *s.Swap.Available != 20 {
		t.Errorf("swap %+v", s.Swap)
	}
	parseIOV2([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16 rbytes=10 wbytes=20 rios=30 wios=40\n"), &s)
	if s.IO != (IOStats{Transfer: Transfer{11, 22, 33, 44}}) {
		t.Errorf("io %+v", s.IO)
	}
}

func TestParseV1(t *testing.T) {
	t.Parallel()
	var s Stats
	s.Memory.Usage, s.Memory.Limit = 100, 200
	parseCPUAcct([]byte("user 5\nsystem 7\n"), &s)
	if s.CPU.User != 50*time.Millisecond || s.CPU.System != 70*time.Millisecond {
		t.Errorf("cpu %+v", s.CPU)
	}
	if parseCPU([]byte("nr_periods 4\nnr_throttled 3\nthrottled_time 2000\nnr_bursts 0\nburst_time 0\n"), &s); s.CPU.Periods != 4 || s.CPU.Throttled != 3 || s.CPU.Waited != 2*time.Microsecond {
		t.Errorf("cpu %+v", s.CPU)
	}
	parseMemoryV1([]byte("cache 1\nrss 1\nmapped_file 1\npgfault 1\npgmajfault 1\ninactive_file 1\nactive_file 1\ntotal_cache 2\ntotal_rss 3\ntotal_mapped_file 4\n"+
		"total_pgfault 5\ntotal_pgmajfault 6\ntotal_inactive_file 7\ntotal_active_file 8\n"), &s)
	if m := s.Memory; m.Cache != 2 || m.RSS != 3 || m.Mapped != 4 || m.Faults != 5 || m.Major != 6 || m.InactiveFile != 7 || m.ActiveFile != 8 || m.WorkingSet != 93 {
		t.Errorf("memory %+v", m)
	}
	parseSwapUsageV1([]byte("130\n"), &s)
	parseSwapV1([]byte("250\n"), &s)
	if s.Swap.Usage != 30 || s.Swap.Available == nil || *s.Swap.Available != 20 {
		t.Errorf("swap %+v", s.Swap)
	}
	parseSwapUsageV1([]byte("90\n"), &s)
	if s.Swap.Usage != 0 {
		t.Errorf("swap usage %d, want the floor", s.Swap.Usage)
	}
	if n := decimal([]byte("9223372036854771712\n")); n != unlimited {
		t.Errorf("v1 no limit is %d", n)
	}
	parseIOBytesV1([]byte("8:0 Read 5\n8:0 Write 6\n8:0 Sync 1\n8:16 Read 50\nTotal 61\n"), &s)
	if s.IO.ReadBytes != 55 || s.IO.WriteBytes != 6 {
		t.Errorf("io %+v", s.IO)
	}
}

func TestParsePSI(t *testing.T) {
	t.Parallel()
	p := parsePSI([]byte("some avg10=0.50 avg60=1.25 avg300=18.63 total=329\nfull avg10=0.00 avg60=0.00 avg300=0.10 total=7\n"))
	want := PSI{Some: Pressure{0.5, 1.25, 18.63, 329 * time.Microsecond}, Full: Pressure{0, 0, 0.1, 7 * time.Microsecond}}
	if p == nil || *p != want {
		t.Errorf("%+v", p)
	}
	if parsePSI(nil) != nil {
		t.Error("PSI from nothing")
	}
}
