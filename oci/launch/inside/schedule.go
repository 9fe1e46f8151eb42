package inside

import (
	"fmt"

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
	cpus, err := program.Numbers(list)
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
		list, err := program.Numbers(nodes)
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
