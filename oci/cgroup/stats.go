package cgroup

import (
	"cmp"
	"fmt"
	"io/fs"
	"math"
	"os"
	"slices"
	"strings"
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
	// Parts of usage: the page cache, of it what is mapped, active and inactive; v2 also what the kernel has of its own.
	Cache, Mapped, ActiveFile, InactiveFile, Kernel uint64
	PSI                                             *PSI
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
	Transfer
	PSI *PSI
}

// Transfer is what has been read and written, in bytes and operations.
type Transfer struct {
	ReadBytes, WriteBytes uint64
	Reads, Writes         uint64
}

func (t *Transfer) add(o Transfer) {
	t.ReadBytes += o.ReadBytes
	t.WriteBytes += o.WriteBytes
	t.Reads += o.Reads
	t.Writes += o.Writes
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
func (g *Group) Stats() (Stats, error) { return readStats(g, lists|metrics|transfers) }

// Basic is Stats without what only metrics tell: of CPU the use and its pressure, of memory and swap everything, of tasks the
// count, of IO the pressure. That is what lists are asked for every few seconds, and costs about half.
func Basic(g *Group) (Stats, error) { return readStats(g, lists) }

// Counters is Stats without what metrics do not tell: limits and what follows from them, of IO all but the pressure. A file costs
// 1 to 10 us to read, and a snapshot of a full node reads thousands.
func Counters(g *Group) (Stats, error) { return readStats(g, metrics) }

// readers says who wants a file.
type readers uint8

const (
	lists readers = 1 << iota
	metrics
	transfers // of all devices together, which DetailOf has of each
)

func readStats(g *Group, who readers) (Stats, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.stats == nil {
		g.stats = openStats(g)
	}
	s := Stats{Time: time.Now(), Memory: MemoryStats{Limit: unlimited}, Pids: PidsStats{Limit: unlimited}}
	err := g.stats.read(&s, who)
	if err != nil {
		g.stats.close()
		g.detail.close()
		g.stats, g.detail = nil, nil
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
	who   readers
	parse func(text []byte, s *Stats)
}

// source says which file of a controller feeds which parser.
type source struct {
	controller string
	file       string
	who        readers
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
		st.files = append(st.files, statFile{fd: fd, who: src.who, parse: src.parse})
	}
	return st
}

func sources(g *Group) []source {
	var all []source
	add := func(controller, file string, parse func([]byte, *Stats)) {
		all = append(all, source{controller, file, lists | metrics, parse})
	}
	only := func(who readers, controller, file string, parse func([]byte, *Stats)) {
		all = append(all, source{controller, file, who, parse})
	}
	// cgroup2 counts CPU time without a controller, but in hybrid mode without
	// the throttling.
	if g.lay.mode != Unified {
		add("cpuacct", "cpuacct.usage", parseUsageV1)
		only(metrics, "cpuacct", "cpuacct.stat", parseCPUAcct)
		only(metrics, "cpu", "cpu.stat", parseCPU)
	} else {
		add(unifiedName, "cpu.stat", parseCPU)
	}
	if v2, _ := g.has("memory"); v2 {
		add("memory", "memory.current", func(b []byte, s *Stats) { s.Memory.Usage = decimal(b) })
		add("memory", "memory.stat", parseMemoryV2)
		only(lists, "memory", "memory.max", parseLimit)
		add("memory", "memory.swap.current", func(b []byte, s *Stats) { s.Swap.Usage = decimal(b) })
		only(lists, "memory", "memory.swap.max", parseSwapV2)
	} else {
		add("memory", "memory.usage_in_bytes", func(b []byte, s *Stats) { s.Memory.Usage = decimal(b) })
		add("memory", "memory.stat", parseMemoryV1)
		only(lists, "memory", "memory.limit_in_bytes", parseLimit)
		add("memory", "memory.memsw.usage_in_bytes", parseSwapUsageV1)
		only(lists, "memory", "memory.memsw.limit_in_bytes", parseSwapV1)
	}
	add("pids", "pids.current", func(b []byte, s *Stats) { s.Pids.Current = decimal(b) })
	only(metrics, "pids", "pids.max", func(b []byte, s *Stats) { s.Pids.Limit = decimal(b) })
	if v2, ok := g.has("io"); ok && v2 {
		only(transfers, "io", "io.stat", parseIOV2)
	} else {
		only(transfers, "blkio", "blkio.throttle.io_service_bytes_recursive", parseIOBytesV1)
		only(transfers, "blkio", "blkio.throttle.io_serviced_recursive", parseIOCountV1)
	}
	add(unifiedName, "cpu.pressure", func(b []byte, s *Stats) { s.CPU.PSI = parsePSI(b) })
	add(unifiedName, "memory.pressure", func(b []byte, s *Stats) { s.Memory.PSI = parsePSI(b) })
	add(unifiedName, "io.pressure", func(b []byte, s *Stats) { s.IO.PSI = parsePSI(b) })
	return all
}

func (st *statFiles) read(s *Stats, who readers) error {
	if len(st.files) == 0 {
		return fs.ErrNotExist
	}
	for _, f := range st.files {
		if f.who&who == 0 {
			continue
		}
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

// Detail is what a group counts beyond Stats: for metrics, which want everything, while lists want little and often.
// Fields the host does not count are zero.
type Detail struct {
	Stats
	MemoryPeak  uint64 // bytes, v1 memory.max_usage_in_bytes, v2 memory.peak (Linux 5.19)
	MemoryFails uint64 // times the limit was hit: v1 memory.failcnt, v2 "max" of memory.events
	OOMKills    uint64 // v1 memory.oom_control (Linux 4.13), v2 memory.events: "oom_kill"
	Huge        []Huge
	Devices     []DeviceIO // in order of their numbers
}

// Huge is the use of huge pages of one size, in bytes. v2 does not keep a peak.
type Huge struct {
	Size        string // as the kernel writes it: "2MB"
	Usage, Peak uint64
}

// DeviceIO is what went to and from one block device since the group was made.
type DeviceIO struct {
	Major, Minor uint32
	Transfer
}

// detailFiles are the open files of one group that DetailOf reads beside those of Stats.
type detailFiles struct {
	files []detailFile
}

type detailFile struct {
	fd    int
	parse func(text []byte, d *Detail)
}

// DetailOf is Counters and more. Files are opened on the first call and kept, as with Stats; errors are those of Stats.
func DetailOf(g *Group) (Detail, error) {
	s, err := readStats(g, metrics)
	if err != nil {
		return Detail{}, err
	}
	d := Detail{Stats: s}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.detail == nil {
		g.detail = openDetail(g)
	}
	if g.stats == nil {
		return Detail{}, fmt.Errorf("stats of cgroup %s: %w", g.path, fs.ErrNotExist) // closed meanwhile
	}
	for _, f := range g.detail.files {
		text, err := g.stats.pread(f.fd)
		if err == unix.EOPNOTSUPP {
			continue
		}
		if err != nil {
			if gone(err) {
				err = fs.ErrNotExist
			}
			return Detail{}, fmt.Errorf("stats of cgroup %s: %w", g.path, err)
		}
		f.parse(text, &d)
	}
	for _, dev := range d.Devices {
		d.IO.add(dev.Transfer)
	}
	slices.SortFunc(d.Devices, func(a, b DeviceIO) int {
		return cmp.Or(cmp.Compare(a.Major, b.Major), cmp.Compare(a.Minor, b.Minor))
	})
	return d, nil
}

func openDetail(g *Group) *detailFiles {
	out := new(detailFiles)
	add := func(controller, file string, parse func([]byte, *Detail)) {
		dir := g.dir(controller)
		if dir == nil {
			return
		}
		if fd, err := unix.Open(dir.path+"/"+file, unix.O_RDONLY|unix.O_CLOEXEC, 0); err == nil {
			out.files = append(out.files, detailFile{fd, parse})
		}
	}
	if v2, _ := g.has("memory"); v2 {
		add("memory", "memory.peak", func(b []byte, d *Detail) { d.MemoryPeak = decimal(b) })
		add("memory", "memory.events", parseEvents)
	} else {
		add("memory", "memory.max_usage_in_bytes", func(b []byte, d *Detail) { d.MemoryPeak = decimal(b) })
		add("memory", "memory.failcnt", func(b []byte, d *Detail) { d.MemoryFails = decimal(b) })
		add("memory", "memory.oom_control", parseEvents)
		add("memory", "memory.kmem.usage_in_bytes", func(b []byte, d *Detail) { d.Memory.Kernel = decimal(b) })
	}
	if v2, ok := g.has("io"); ok && v2 {
		add("io", "io.stat", parseDevicesV2)
	} else {
		add("blkio", "blkio.throttle.io_service_bytes_recursive", func(b []byte, d *Detail) { d.devicesV1(b, false) })
		add("blkio", "blkio.throttle.io_serviced_recursive", func(b []byte, d *Detail) { d.devicesV1(b, true) })
	}
	openHuge(g, add)
	return out
}

// openHuge finds the page sizes by the names of the files: hugetlb.2MB.current, v1 hugetlb.2MB.usage_in_bytes.
func openHuge(g *Group, add func(controller, file string, parse func([]byte, *Detail))) {
	dir := g.dir("hugetlb")
	if dir == nil {
		return
	}
	v2, _ := g.has("hugetlb")
	usage, peak := ".usage_in_bytes", ".max_usage_in_bytes"
	if v2 {
		usage, peak = ".current", ""
	}
	names, err := os.ReadDir(dir.path)
	if err != nil {
		return
	}
	for _, n := range names {
		size, ok := strings.CutPrefix(strings.TrimSuffix(n.Name(), usage), "hugetlb.")
		// What is left of hugetlb.2MB.rsvd.current and of v1's max_usage has a dot.
		if !ok || !strings.HasSuffix(n.Name(), usage) || strings.Contains(size, ".") {
			continue
		}
		add("hugetlb", n.Name(), func(b []byte, d *Detail) { d.huge(size).Usage = decimal(b) })
		if peak != "" {
			add("hugetlb", "hugetlb."+size+peak, func(b []byte, d *Detail) { d.huge(size).Peak = decimal(b) })
		}
	}
}

func (d *Detail) huge(size string) *Huge {
	for i := range d.Huge {
		if d.Huge[i].Size == size {
			return &d.Huge[i]
		}
	}
	d.Huge = append(d.Huge, Huge{Size: size})
	return &d.Huge[len(d.Huge)-1]
}

func (d *Detail) device(major, minor uint32) *DeviceIO {
	for i := range d.Devices {
		if d.Devices[i].Major == major && d.Devices[i].Minor == minor {
			return &d.Devices[i]
		}
	}
	d.Devices = append(d.Devices, DeviceIO{Major: major, Minor: minor})
	return &d.Devices[len(d.Devices)-1]
}

func (f *detailFiles) close() {
	if f == nil {
		return
	}
	for _, one := range f.files {
		unix.Close(one.fd)
	}
	f.files = nil
}
