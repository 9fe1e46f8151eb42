package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch"
	"github.com/berth-runtime/berth/oci/launch/criu"
)

// update changes limits: a LinuxResources document from a file or "-", or single values by flag.
func (a *app) update(_ context.Context, args []string) (int, error) {
	f := flags("update")
	doc := f.String("resources", "", "file with a LinuxResources object, - for standard input")
	f.StringVar(doc, "r", "", "file with a LinuxResources object, - for standard input")
	limits := limitFlags(f)
	f.String("kernel-memory", "", "accepted for compatibility")
	f.String("kernel-memory-tcp", "", "accepted for compatibility")
	rdt := [...]*string{f.String("l3-cache-schema", "", "not supported"), f.String("mem-bw-schema", "", "not supported")}
	rest, err := parse(f, args, 1)
	if err == nil && *rdt[0]+*rdt[1] != "" {
		err = fmt.Errorf("update: resctrl schemata are set by create: %w", errors.ErrUnsupported)
	}
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		if *doc == "" {
			return c.UpdateLimits(limits)
		}
		var in io.Reader = os.Stdin
		if *doc != "-" {
			file, err := os.Open(*doc)
			if err != nil {
				return err
			}
			defer file.Close()
			in = file
		}
		return c.Update(in)
	})
}

// limitFlags are runc's flags for single values; those that are given end up in the result.
func limitFlags(f *flag.FlagSet) *specs.LinuxResources {
	r := &specs.LinuxResources{Memory: &specs.LinuxMemory{}, CPU: &specs.LinuxCPU{}, BlockIO: &specs.LinuxBlockIO{}, Pids: &specs.LinuxPids{}}
	signed := func(name, usage string, to **int64) {
		f.Func(name, usage, func(s string) error {
			n, err := strconv.ParseInt(s, 10, 64)
			*to = &n
			return err
		})
	}
	unsigned := func(name, usage string, to **uint64) {
		f.Func(name, usage, func(s string) error {
			n, err := strconv.ParseUint(s, 10, 64)
			*to = &n
			return err
		})
	}
	size := func(name, usage string, to **int64) {
		f.Func(name, usage, func(s string) error {
			n, err := bytes(s)
			*to = &n
			return err
		})
	}
	size("memory", "memory limit in bytes", &r.Memory.Limit)
	size("memory-reservation", "soft memory limit in bytes", &r.Memory.Reservation)
	size("memory-swap", "memory and swap in bytes, -1 for no limit", &r.Memory.Swap)
	signed("cpu-quota", "microseconds of CPU per period", &r.CPU.Quota)
	unsigned("cpu-burst", "microseconds of CPU above the quota", &r.CPU.Burst)
	unsigned("cpu-period", "period in microseconds", &r.CPU.Period)
	unsigned("cpu-share", "relative weight", &r.CPU.Shares)
	signed("cpu-rt-runtime", "microseconds of realtime CPU per period", &r.CPU.RealtimeRuntime)
	unsigned("cpu-rt-period", "realtime period in microseconds", &r.CPU.RealtimePeriod)
	signed("cpu-idle", "1: SCHED_IDLE", &r.CPU.Idle)
	signed("pids-limit", "number of tasks", &r.Pids.Limit)
	f.StringVar(&r.CPU.Cpus, "cpuset-cpus", "", "CPUs")
	f.StringVar(&r.CPU.Mems, "cpuset-mems", "", "memory nodes")
	f.Func("blkio-weight", "relative weight, 10 to 1000", func(s string) error {
		n, err := strconv.ParseUint(s, 10, 16)
		weight := uint16(n)
		r.BlockIO.Weight = &weight
		return err
	})
	return r
}

// bytes reads a size with an optional binary unit, such as 64m or 1GiB.
func bytes(s string) (int64, error) {
	text := strings.TrimSuffix(strings.TrimSuffix(strings.ToLower(s), "b"), "i")
	shift := 0
	if n := len(text); n > 0 {
		if i := strings.IndexByte("kmgtp", text[n-1]); i >= 0 {
			text, shift = text[:n-1], 10*(i+1)
		}
	}
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil || n<<shift>>shift != n {
		return 0, fmt.Errorf("size %q: %w", s, fs.ErrInvalid)
	}
	return n << shift, nil
}

// checkpoint has the flags of runc that mean something here.
func (a *app) checkpoint(ctx context.Context, args []string) (int, error) {
	f := flags("checkpoint")
	o := criu.Options{}
	f.StringVar(&o.Images, "image-path", "checkpoint", "directory of CRIU's images")
	f.StringVar(&o.Work, "work-path", "", "directory of CRIU's log and statistics")
	f.BoolVar(&o.LeaveRunning, "leave-running", false, "let the container go on")
	f.BoolVar(&o.TCPEstablished, "tcp-established", false, "admit open TCP connections")
	f.BoolVar(&o.UnixSockets, "ext-unix-sk", false, "admit unix sockets to others")
	f.BoolVar(&o.FileLocks, "file-locks", false, "admit file locks")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 2, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		if s := c.Status(); s != "running" {
			return fmt.Errorf("checkpoint %s: it is %s: %w", c.State.ID, s, fs.ErrInvalid)
		}
		if err := criu.Dump(ctx, c.State.Pid, o); err != nil {
			return fmt.Errorf("checkpoint %s: %w", c.State.ID, err)
		}
		return nil
	})
}
