package cgroup

import (
	"bytes"
	"strconv"
	"time"
)

// The parsers below take the whole text of one control file. They allocate
// nothing, skip what they do not know, and add to Stats what they do.

// decimal is the number a file begins with; "max" and v1's "no limit" (above 2^62)
// become unlimited.
func decimal(b []byte) uint64 {
	if bytes.HasPrefix(b, []byte("max")) {
		return unlimited
	}
	var n uint64
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		n = n*10 + uint64(c-'0')
	}
	if n >= 1<<62 {
		return unlimited
	}
	return n
}

// pairs calls f for each "key value" line.
func pairs(b []byte, f func(key []byte, n uint64)) {
	for line := range bytes.Lines(b) {
		if i := bytes.IndexByte(line, ' '); i > 0 {
			f(line[:i], decimal(line[i+1:]))
		}
	}
}

func parseUsageV1(b []byte, s *Stats) { s.CPU.Usage = time.Duration(decimal(b)) }

// parseCPUAcct reads ticks of USER_HZ, 100 a second on every architecture.
func parseCPUAcct(b []byte, s *Stats) {
	const tick = 10 * time.Millisecond
	pairs(b, func(key []byte, n uint64) {
		switch string(key) {
		case "user":
			s.CPU.User = time.Duration(n) * tick
		case "system":
			s.CPU.System = time.Duration(n) * tick
		}
	})
}

// parseCPU reads both versions' cpu.stat: v1 has what throttling did, in nanoseconds under a name of its own.
func parseCPU(b []byte, s *Stats) {
	pairs(b, func(key []byte, n uint64) {
		switch string(key) {
		case "usage_usec":
			s.CPU.Usage = time.Duration(n) * time.Microsecond
		case "user_usec":
			s.CPU.User = time.Duration(n) * time.Microsecond
		case "system_usec":
			s.CPU.System = time.Duration(n) * time.Microsecond
		case "nr_periods":
			s.CPU.Periods = n
		case "nr_throttled":
			s.CPU.Throttled = n
		case "throttled_usec":
			s.CPU.Waited = time.Duration(n) * time.Microsecond
		case "throttled_time":
			s.CPU.Waited = time.Duration(n)
		}
	})
}

func parseLimit(b []byte, s *Stats) { s.Memory.Limit = decimal(b) }

// parseMemoryV1 reads the sums over the whole subtree, which v1 has besides those of the group alone.
func parseMemoryV1(b []byte, s *Stats) {
	pairs(b, func(key []byte, n uint64) {
		if name, total := bytes.CutPrefix(key, []byte("total_")); total {
			s.memory(name, n)
		}
	})
}

func parseMemoryV2(b []byte, s *Stats) { pairs(b, s.memory) }

// memory takes one value of memory.stat; where v1 has another name, it is the first.
func (s *Stats) memory(key []byte, n uint64) {
	switch string(key) {
	case "cache", "file":
		s.Memory.Cache = n
	case "mapped_file", "file_mapped":
		s.Memory.Mapped = n
	case "active_file":
		s.Memory.ActiveFile = n
	case "kernel":
		s.Memory.Kernel = n
	case "inactive_file":
		s.Memory.InactiveFile = n
		s.Memory.WorkingSet = s.Memory.Usage - min(s.Memory.Usage, n)
	case "rss", "anon":
		s.Memory.RSS = n
	case "pgfault":
		s.Memory.Faults = n
	case "pgmajfault":
		s.Memory.Major = n
	}
}

// parseSwapUsageV1 takes memory from memory+swap. The two are read a moment
// apart, hence the floor.
func parseSwapUsageV1(b []byte, s *Stats) {
	both := decimal(b)
	s.Swap.Usage = both - min(both, s.Memory.Usage)
}

func parseSwapV1(b []byte, s *Stats) {
	both := decimal(b)
	if both == unlimited || s.Memory.Limit == unlimited {
		return
	}
	swap := both - min(both, s.Memory.Limit)
	left := swap - min(swap, s.Swap.Usage)
	s.Swap.Available = &left
}

func parseSwapV2(b []byte, s *Stats) {
	if n := decimal(b); n != unlimited {
		left := n - min(n, s.Swap.Usage)
		s.Swap.Available = &left
	}
}

// parseIOV2 sums lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func parseIOV2(b []byte, s *Stats) { s.IO.addV2(b) }

// addV2 adds up fields "rbytes=1"; the numbers of devices among them are none.
func (t *Transfer) addV2(b []byte) {
	for field := range bytes.FieldsSeq(b) {
		key, value, _ := bytes.Cut(field, []byte("="))
		switch n := decimal(value); string(key) {
		case "rbytes":
			t.ReadBytes += n
		case "wbytes":
			t.WriteBytes += n
		case "rios":
			t.Reads += n
		case "wios":
			t.Writes += n
		}
	}
}

func parseIOBytesV1(b []byte, s *Stats) { sumV1(b, &s.IO.ReadBytes, &s.IO.WriteBytes) }
func parseIOCountV1(b []byte, s *Stats) { sumV1(b, &s.IO.Reads, &s.IO.Writes) }

// sumV1 sums lines "8:0 Read 1".
func sumV1(b []byte, read, write *uint64) {
	for line := range bytes.Lines(b) {
		if i := bytes.Index(line, []byte(" Read ")); i > 0 {
			*read += decimal(line[i+6:])
		} else if i := bytes.Index(line, []byte(" Write ")); i > 0 {
			*write += decimal(line[i+7:])
		}
	}
}

// parsePSI reads "some avg10=0.00 avg60=0.00 avg300=0.00 total=0", the total in
// microseconds, and the same for full.
func parsePSI(b []byte) *PSI {
	var psi PSI
	found := false
	for line := range bytes.Lines(b) {
		var p *Pressure
		switch {
		case bytes.HasPrefix(line, []byte("some ")):
			p = &psi.Some
		case bytes.HasPrefix(line, []byte("full ")):
			p = &psi.Full
		default:
			continue
		}
		found = true
		for field := range bytes.FieldsSeq(line) {
			key, value, _ := bytes.Cut(field, []byte("="))
			switch string(key) {
			case "avg10":
				p.Avg10, _ = strconv.ParseFloat(string(value), 64)
			case "avg60":
				p.Avg60, _ = strconv.ParseFloat(string(value), 64)
			case "avg300":
				p.Avg300, _ = strconv.ParseFloat(string(value), 64)
			case "total":
				p.Total = time.Duration(decimal(value)) * time.Microsecond
			}
		}
	}
	if !found {
		return nil
	}
	return &psi
}

// parseEvents reads what v2's memory.events and v1's memory.oom_control have in common.
func parseEvents(b []byte, d *Detail) {
	pairs(b, func(key []byte, n uint64) {
		switch string(key) {
		case "oom_kill":
			d.OOMKills = n
		case "max":
			d.MemoryFails = n
		}
	})
}

// deviceNumber reads "8:0" and returns the rest of the line.
func deviceNumber(line []byte) (major, minor uint32, rest []byte, ok bool) {
	number, rest, ok := bytes.Cut(line, []byte(" "))
	a, b, colon := bytes.Cut(number, []byte(":"))
	if !ok || !colon || len(a) == 0 || len(b) == 0 || len(bytes.Trim(number, "0123456789:")) > 0 {
		return 0, 0, nil, false
	}
	return uint32(decimal(a)), uint32(decimal(b)), rest, true
}

// parseDevicesV2 reads lines "8:0 rbytes=1 wbytes=2 rios=3 wios=4 …".
func parseDevicesV2(b []byte, d *Detail) {
	for line := range bytes.Lines(b) {
		major, minor, rest, ok := deviceNumber(line)
		if !ok {
			continue
		}
		d.device(major, minor).addV2(rest)
	}
}

// devicesV1 reads lines "8:0 Read 1" of bytes or operations.
func (d *Detail) devicesV1(b []byte, operations bool) {
	for line := range bytes.Lines(b) {
		major, minor, rest, ok := deviceNumber(line)
		if !ok {
			continue
		}
		kind, value, _ := bytes.Cut(rest, []byte(" "))
		io, n := d.device(major, minor), decimal(value)
		switch {
		case string(kind) == "Read" && operations:
			io.Reads = n
		case string(kind) == "Read":
			io.ReadBytes = n
		case string(kind) == "Write" && operations:
			io.Writes = n
		case string(kind) == "Write":
			io.WriteBytes = n
		}
	}
}
