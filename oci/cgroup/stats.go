package cgroup

import (
	"fmt"
	"io/fs"
	"math"
	"time"

	"golang.org/x/sys/unix"
)

// Stats are a group's counters. Fields a host cannot measure are zero; the
// pointers are nil where there is nothing to report.
type Stats struct {
	Time   time.Time // of reading
	CPU    CPUStats
	Memory MemoryStats
	Swap   SwapStats
	Pids   PidsStats
	IO     IOStats
}

// CPUStats: v2 cpu.stat; v1 cpuacct.usage, cpuacct.stat and cpu.stat.
type CPUStats struct {
	Usage     time.Duration // since the group was made, monotonic
	User      time.Duration
	System    time.Duration
	Periods   uint64        // enforcement intervals that have passed under a quota
	Throttled uint64        // intervals in which the quota ran out
	Waited    time.Duration // time spent throttled, over all tasks
	PSI       *PSI          // nil when PSI is off
}

// MemoryStats are in bytes, faults in events.
type MemoryStats struct {
	Usage      uint64  // v2 memory.current, v1 memory.usage_in_bytes
	WorkingSet uint64  // usage without inactive file pages, at least 0
	RSS        uint64  // v2 anon, v1 total_rss
	Limit      uint64  // math.MaxUint64: unlimited
	Available  *uint64 // limit less working set, nil when unlimited
	Faults     uint64  // all of them, as everybody reports it
	Major      uint64
	PSI        *PSI
}

// SwapStats are in bytes.
type SwapStats struct {
	Usage     uint64  // v2 memory.swap.current, v1 memsw less memory
	Available *uint64 // nil when unlimited or not counted
}

// PidsStats count tasks, threads included.
type PidsStats struct {
	Current uint64
	Limit   uint64 // math.MaxUint64: unlimited
}

// IOStats are sums over all block devices since the group was made.
type IOStats struct {
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
	PSI                   *PSI
}

// PSI is pressure stall information (Documentation/accounting/psi.rst).
type PSI struct {
	Some, Full Pressure
}

// Pressure is the share of time lost, in percent over the last 10, 60 and 300
// seconds, and in all.
type Pressure struct {
	Avg10, Avg60, Avg300 float64
	Total                time.Duration
}

// unlimited is how a limit that is none is reported.
const unlimited = math.MaxUint64

// Stats reads the counters of the group and all below it. The files are opened
// on the first call and kept until Close, Remove, or until the group is gone,
// which wraps fs.ErrNotExist. Calls take turns.
func (g *Group) Stats() (Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stats == nil {
		g.stats = openStats(g)
	}
	s := Stats{Time: time.Now(), Memory: MemoryStats{Limit: unlimited}, Pids: PidsStats{Limit: unlimited}}
	err := g.stats.read(&s)
	if err != nil {
		g.stats.close()
		g.stats = nil
		if gone(err) {
			err = fs.ErrNotExist
		}
		return Stats{}, fmt.Errorf("stats of cgroup %s: %w", g.path, err)
	}
	return s, nil
}

// statFiles are the open counters of one group: plain descriptors, since the
// runtime's poller would only cost memory for files that never block.
type statFiles struct {
	files []statFile
	buf   []byte
}

type statFile struct {
	fd    int
	parse func(text []byte, s *Stats)
}

// source says which file of a controller feeds which parser.
type source struct {
	controller string
	file       string
	parse      func(text []byte, s *Stats)
}

// openStats opens what the group has of the sources. Files that are missing
// are counters this kernel does not keep.
func openStats(g *Group) *statFiles {
	st := &statFiles{buf: make([]byte, 8192)}
	for _, src := range sources(g) {
		d := g.dir(src.controller)
		if d == nil {
			continue
		}
		fd, err := unix.Open(d.path+"/"+src.file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			continue
		}
		st.files = append(st.files, statFile{fd: fd, parse: src.parse})
	}
	return st
}

func sources(g *Group) []source {
	var all []source
	add := func(controller, file string, parse func([]byte, *Stats)) {
		all = append(all, source{controller, file, parse})
	}
	// cgroup2 counts CPU time without a controller, but in hybrid mode without
	// the throttling.
	if g.lay.mode != Unified {
		add("cpuacct", "cpuacct.usage", parseUsageV1)
		add("cpuacct", "cpuacct.stat", parseCPUAcct)
		add("cpu", "cpu.stat", parseCPUV1)
	} else {
		add(unifiedName, "cpu.stat", parseCPUV2)
	}
	if v2, _ := g.has("memory"); v2 {
		add("memory", "memory.current", func(b []byte, s *Stats) { s.Memory.Usage = decimal(b) })
		add("memory", "memory.stat", parseMemoryV2)
		add("memory", "memory.max", parseLimit)
		add("memory", "memory.swap.current", func(b []byte, s *Stats) { s.Swap.Usage = decimal(b) })
		add("memory", "memory.swap.max", parseSwapV2)
	} else {
		add("memory", "memory.usage_in_bytes", func(b []byte, s *Stats) { s.Memory.Usage = decimal(b) })
		add("memory", "memory.stat", parseMemoryV1)
		add("memory", "memory.limit_in_bytes", parseLimit)
		add("memory", "memory.memsw.usage_in_bytes", parseSwapUsageV1)
		add("memory", "memory.memsw.limit_in_bytes", parseSwapV1)
	}
	add("pids", "pids.current", func(b []byte, s *Stats) { s.Pids.Current = decimal(b) })
	add("pids", "pids.max", func(b []byte, s *Stats) { s.Pids.Limit = decimal(b) })
	if v2, ok := g.has("io"); ok && v2 {
		add("io", "io.stat", parseIOV2)
	} else {
		add("blkio", "blkio.throttle.io_service_bytes_recursive", parseIOBytesV1)
		add("blkio", "blkio.throttle.io_serviced_recursive", parseIOCountV1)
	}
	add(unifiedName, "cpu.pressure", func(b []byte, s *Stats) { s.CPU.PSI = parsePSI(b) })
	add(unifiedName, "memory.pressure", func(b []byte, s *Stats) { s.Memory.PSI = parsePSI(b) })
	add(unifiedName, "io.pressure", func(b []byte, s *Stats) { s.IO.PSI = parsePSI(b) })
	return all
}

func (st *statFiles) read(s *Stats) error {
	if len(st.files) == 0 {
		return fs.ErrNotExist
	}
	for _, f := range st.files {
		text, err := st.pread(f.fd)
		if err == unix.EOPNOTSUPP {
			continue // PSI switched off
		}
		if err != nil {
			return err
		}
		f.parse(text, s)
	}
	if s.Memory.Limit != unlimited {
		left := s.Memory.Limit - min(s.Memory.Limit, s.Memory.WorkingSet)
		s.Memory.Available = &left
	}
	return nil
}

// pread reads a file from its beginning into the shared buffer, which grows
// when a file fills it (io.stat on hosts with many disks).
func (st *statFiles) pread(fd int) ([]byte, error) {
	for {
		n, err := unix.Pread(fd, st.buf, 0)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n < len(st.buf) {
			return st.buf[:max(n, 0)], err
		}
		st.buf = make([]byte, 2*len(st.buf))
	}
}

func (st *statFiles) close() {
	if st == nil {
		return
	}
	for _, f := range st.files {
		unix.Close(f.fd)
	}
	st.files = nil
}
