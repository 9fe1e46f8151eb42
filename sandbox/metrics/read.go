package metrics

import (
	"math"
	"strconv"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// The functions below make the readers of the families from the expression that tells one from another.

func counters(value func(*cgroup.Stats) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Counters != nil {
			add(value(s.Counters))
		}
	}
}

func detail(value func(*cgroup.Detail) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Detail != nil {
			add(value(s.Detail))
		}
	}
}

func disk(value func(*Disk) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Disk != nil && s.Writable != nil {
			add(value(s.Disk), s.Disk.Device)
		}
	}
}

func layer(s *Sample, add add) {
	if s.Writable != nil && s.Disk != nil {
		add(s.Writable.Bytes, s.Disk.Device)
	}
}

func devices(value func(*cgroup.DeviceIO) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Detail == nil {
			return
		}
		for i := range s.Detail.Devices {
			d := &s.Detail.Devices[i]
			add(value(d), s.device(d.Major, d.Minor))
		}
	}
}

func blkio(s *Sample, add add) {
	if s.Detail == nil {
		return
	}
	for i := range s.Detail.Devices {
		d := &s.Detail.Devices[i]
		name, major, minor := s.device(d.Major, d.Minor), strconv.Itoa(int(d.Major)), strconv.Itoa(int(d.Minor))
		add(d.ReadBytes, name, major, minor, "Read")
		add(d.WriteBytes, name, major, minor, "Write")
	}
}

// cpuTotal is of all processors together, as cAdvisor says it when it does not split them.
func cpuTotal(s *Sample, add add) {
	if s.Counters != nil {
		add(seconds(s.Counters.CPU.Usage), "total")
	}
}

// faults are those of the group and all below it. cAdvisor tells those of the group alone as "container": containers
// have no groups below them but those of execs.
func faults(s *Sample, add add) {
	if s.Counters == nil {
		return
	}
	for _, scope := range [...]string{"container", "hierarchy"} {
		add(s.Counters.Memory.Faults, "pgfault", scope)
		add(s.Counters.Memory.Major, "pgmajfault", scope)
	}
}

func links(value func(*ns.Link) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		for i := range s.Links {
			if l := &s.Links[i]; l.Name != "lo" {
				add(value(l), l.Name)
			}
		}
	}
}

func processes(value func(*Processes) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Processes != nil {
			add(value(s.Processes))
		}
	}
}

func softLimits(s *Sample, add add) {
	if s.Processes != nil && s.Processes.SoftFiles > 0 {
		add(s.Processes.SoftFiles, "max_open_files")
	}
}

func huge(value func(*cgroup.Huge) uint64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Detail == nil {
			return
		}
		for i := range s.Detail.Huge {
			h := &s.Detail.Huge[i]
			add(value(h), h.Size)
		}
	}
}

func pressure(of func(*cgroup.Stats) *cgroup.PSI, part func(*cgroup.PSI) cgroup.Pressure) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Counters == nil {
			return
		}
		if p := of(s.Counters); p != nil {
			add(seconds(part(p).Total))
		}
	}
}

func lastSeen(s *Sample, add add) { add(uint64(max(s.Time.Unix(), 0))) }

func started(s *Sample, add add) {
	if !s.Started.IsZero() {
		add(uint64(max(s.Started.Unix(), 0)))
	}
}

// spec gives limits in force. "No limit" is negative or absent in the CRI, and 0 here.
func spec(value func(*rt.LinuxContainerResources) int64) func(*Sample, add) {
	return func(s *Sample, add add) {
		if s.Resources != nil {
			add(uint64(max(value(s.Resources), 0)))
		}
	}
}

// reservation is what kubelet asks for in the unified map; the CRI has no field for it.
func reservation(s *Sample, add add) {
	if s.Resources == nil {
		return
	}
	low, err := strconv.ParseUint(s.Resources.GetUnified()["memory.low"], 10, 64)
	if err != nil {
		low = 0
	}
	add(low)
}

func seconds(d time.Duration) uint64 { return uint64(max(d, 0) / time.Second) }

// limit turns "unlimited" into 0.
func limit(n uint64) uint64 {
	if n == math.MaxUint64 {
		return 0
	}
	return n
}
