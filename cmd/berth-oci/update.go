package main

import (
	"context"
	"io"
	"os"

	"github.com/berth-runtime/berth/oci/launch"
)

// update changes limits: a LinuxResources document from a file or "-", or single values by flag.
func (a *app) update(_ context.Context, args []string) (int, error) {
	f := flags("update")
	doc := f.String("resources", "", "file with a LinuxResources object, - for standard input")
	f.StringVar(doc, "r", "", "file with a LinuxResources object, - for standard input")
	one := launch.Limits{}
	f.Int64Var(&one.Memory, "memory", 0, "memory limit in bytes")
	f.Int64Var(&one.Reservation, "memory-reservation", 0, "soft memory limit in bytes")
	f.Int64Var(&one.Swap, "memory-swap", 0, "memory and swap in bytes, -1 for no limit")
	f.Int64Var(&one.Quota, "cpu-quota", 0, "microseconds of CPU per period")
	f.Uint64Var(&one.Period, "cpu-period", 0, "period in microseconds")
	f.Uint64Var(&one.Shares, "cpu-share", 0, "relative weight")
	f.StringVar(&one.Cpus, "cpuset-cpus", "", "CPUs")
	f.StringVar(&one.Mems, "cpuset-mems", "", "memory nodes")
	f.Int64Var(&one.Pids, "pids-limit", 0, "number of tasks")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 2, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		if *doc == "" {
			return c.Update(one.Reader())
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
