package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/oci/launch"
)

// ps lists the container's processes: by ps(1) with its options, as runc does, or as JSON numbers.
func (a *app) ps(_ context.Context, args []string) (int, error) {
	f := flags("ps")
	format := f.String("format", "table", "table or json")
	f.StringVar(format, "f", "table", "table or json")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		pids, err := c.Procs()
		switch {
		case err != nil:
			return err
		case *format == "json":
			return json.NewEncoder(os.Stdout).Encode(append([]int{}, pids...))
		case *format != "table":
			return fmt.Errorf("ps: format %q: %w", *format, fs.ErrInvalid)
		}
		return table(pids, rest[1:])
	})
}

// table runs ps and keeps the lines of the given processes.
func table(pids []int, args []string) error {
	if len(args) == 0 {
		args = []string{"-ef"}
	}
	out, err := exec.Command("ps", args...).CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return comms(pids)
	}
	if err != nil {
		return fmt.Errorf("ps %s: %w: %s", strings.Join(args, " "), err, out)
	}
	lines := strings.Split(strings.TrimRight(string(out), "\n"), "\n")
	column := slices.Index(strings.Fields(lines[0]), "PID")
	if column < 0 {
		return fmt.Errorf("ps %s: no column PID: %w", strings.Join(args, " "), fs.ErrInvalid)
	}
	fmt.Println(lines[0])
	for _, line := range lines[1:] {
		fields := strings.Fields(line)
		if column >= len(fields) {
			continue
		}
		if pid, err := strconv.Atoi(fields[column]); err == nil && slices.Contains(pids, pid) {
			fmt.Println(line)
		}
	}
	return nil
}

// comms is the table of hosts without ps.
func comms(pids []int) error {
	fmt.Println("PID\tCOMMAND")
	for _, pid := range pids {
		comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
		fmt.Printf("%d\t%s\n", pid, strings.TrimSpace(string(comm)))
	}
	return nil
}

// counted is one value with its limit, in runc's form of events.
type counted struct {
	Limit   uint64 `json:"limit,omitempty"`
	Usage   uint64 `json:"usage,omitempty"`
	Max     uint64 `json:"max,omitempty"`
	Failcnt uint64 `json:"failcnt,omitempty"`
}

// events prints the container's counters, once or at an interval until it ends, and its OOM kills.
func (a *app) events(ctx context.Context, args []string) (int, error) {
	f := flags("events")
	interval := f.Duration("interval", 5*time.Second, "time between statistics")
	once := f.Bool("stats", false, "print statistics once")
	rest, err := parse(f, args, 1)
	if err == nil && *interval <= 0 {
		err = fmt.Errorf("events: interval %v: %w", *interval, fs.ErrInvalid)
	}
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		out := json.NewEncoder(os.Stdout)
		kills := uint64(math.MaxUint64)
		for {
			d, err := c.Detail()
			if err != nil {
				if kills != math.MaxUint64 && errors.Is(err, fs.ErrInvalid) {
					return nil // it has ended
				}
				return err
			}
			if d.OOMKills > kills {
				if err := out.Encode(map[string]any{"type": "oom", "id": rest[0]}); err != nil {
					return err
				}
			}
			kills = d.OOMKills
			if err := out.Encode(map[string]any{"type": "stats", "id": rest[0], "data": statistics(d)}); err != nil || *once {
				return err
			}
			select {
			case <-ctx.Done():
				return nil
			case <-time.After(*interval):
			}
		}
	})
}

// statistics has the shape of runc's "stats" events as far as there are values for it.
func statistics(d *launch.Detail) map[string]any {
	bound := func(n uint64) uint64 {
		if n == math.MaxUint64 {
			return 0
		}
		return n
	}
	huge := map[string]counted{}
	for _, h := range d.Huge {
		huge[h.Size] = counted{Usage: h.Usage, Max: h.Peak}
	}
	return map[string]any{
		"cpu": map[string]any{
			"usage":      map[string]any{"total": d.CPU.Usage, "kernel": d.CPU.System, "user": d.CPU.User},
			"throttling": map[string]any{"periods": d.CPU.Periods, "throttledPeriods": d.CPU.Throttled, "throttledTime": d.CPU.Waited},
		},
		"memory": map[string]any{
			"usage": counted{Limit: d.Memory.Limit, Usage: d.Memory.Usage, Max: d.MemoryPeak, Failcnt: d.MemoryFails},
			"cache": d.Memory.Cache, "swap": counted{Usage: d.Swap.Usage}, "kernel": counted{Usage: d.Memory.Kernel},
			"raw": map[string]uint64{"rss": d.Memory.RSS, "mapped_file": d.Memory.Mapped, "active_file": d.Memory.ActiveFile,
				"inactive_file": d.Memory.InactiveFile, "pgfault": d.Memory.Faults, "pgmajfault": d.Memory.Major},
		},
		"pids":    map[string]any{"current": d.Pids.Current, "limit": bound(d.Pids.Limit)},
		"hugetlb": huge,
	}
}
