package inside

import (
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// schedule sets scheduling policy and I/O priority of this thread.
func schedule(s *program.Schedule) error {
	if s.Set {
		attr := unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: uint32(s.Policy), Flags: s.Flags, Nice: int32(s.Nice),
			Priority: uint32(s.Priority), Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}
		if err := unix.SchedSetAttr(0, &attr, 0); err != nil {
			return fmt.Errorf("sched_setattr: %w", err)
		}
	}
	if s.IOSet {
		if err := ioprioSet(s.IOPrio); err != nil {
			return fmt.Errorf("ioprio_set: %w", err)
		}
	}
	return nil
}

// affinity runs this thread on the CPUs of a list such as "0-3,7"; "" changes nothing.
func affinity(list string) error {
	if list == "" {
		return nil
	}
	cpus, err := numbers(list)
	if err != nil {
		return err
	}
	set := unix.NewCPUSet(int(cpus[len(cpus)-1]) + 1)
	for _, n := range cpus {
		set.Set(int(n))
	}
	return unix.SchedSetaffinityDynamic(0, set)
}

func memPolicy(mode int, flags uint64, nodes string) error {
	var mask []uint64
	if nodes != "" {
		list, err := numbers(nodes)
		if err != nil {
			return err
		}
		mask = make([]uint64, list[len(list)-1]/64+1)
		for _, n := range list {
			mask[n/64] |= 1 << (n % 64)
		}
	}
	return setMemPolicy(uint64(mode)|flags, mask)
}

// numbers reads a list such as "0-3,7": ascending result, at most 4096 and below 65536.
func numbers(list string) ([]uint64, error) {
	var out []uint64
	for _, part := range strings.Split(list, ",") {
		low, high, isRange := strings.Cut(strings.TrimSpace(part), "-")
		a, err := strconv.ParseUint(low, 10, 16)
		if err != nil {
			return nil, fmt.Errorf("list %q: %w", list, fs.ErrInvalid)
		}
		b := a
		if isRange {
			if b, err = strconv.ParseUint(high, 10, 16); err != nil || b < a {
				return nil, fmt.Errorf("list %q: %w", list, fs.ErrInvalid)
			}
		}
		for n := a; n <= b && len(out) < 4096; n++ {
			out = append(out, n)
		}
	}
	return sorted(out), nil
}

func sorted(n []uint64) []uint64 {
	for i := 1; i < len(n); i++ {
		for j := i; j > 0 && n[j] < n[j-1]; j-- {
			n[j], n[j-1] = n[j-1], n[j]
		}
	}
	return n
}
