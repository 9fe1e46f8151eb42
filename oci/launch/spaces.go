package launch

import (
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/netdevice"
	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/resctrl"
	"github.com/berth-runtime/berth/oci/launch/spawn"
)

// join opens the namespaces to be joined.
func (c *creation) join(req *spawn.Request) ([]*os.File, error) {
	var files []*os.File
	open := func(path string) (*os.File, error) {
		f, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err == nil {
			files = append(files, f)
		}
		return f, err
	}
	if c.spaces.User != "" {
		f, err := open(c.spaces.User)
		if err != nil {
			return files, fmt.Errorf("linux.namespaces: user: %w", err)
		}
		req.User = f
	}
	for _, s := range c.spaces.Join {
		f, err := open(s.Path)
		if err != nil {
			return files, fmt.Errorf("linux.namespaces: %w", err)
		}
		req.Join = append(req.Join, spawn.Join{FD: int(f.Fd()), Kind: s.Kind})
		req.Fork = req.Fork || s.Kind == unix.CLONE_NEWPID
	}
	return files, nil
}

// furnish checks and completes the namespaces the init is in, before anything else is done in them.
func (c *creation) furnish() error {
	for _, f := range c.spaces.Foreign {
		name := spaceName(f.Kind)
		own, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Field, err)
		}
		theirs, err := os.Readlink("/proc/" + strconv.Itoa(c.st.Pid) + "/ns/" + name)
		if err != nil {
			return fmt.Errorf("%s: %w", f.Field, err)
		}
		if own == theirs {
			return fmt.Errorf("%s: the %s namespace is the runtime's own: %w", f.Field, name, fs.ErrInvalid)
		}
	}
	if c.rdt != nil {
		if err := c.rdt.Create(); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
		if err := resctrl.Enter(c.rdt.Tasks, c.st.Pid); err != nil {
			return fmt.Errorf("linux.intelRdt: %w", err)
		}
	}
	return c.moveDevices()
}

// reserve decides about resctrl groups; they are in the record before they are made.
func (c *creation) reserve() error {
	section := c.config.Linux.IntelRdt
	if section == nil {
		return nil
	}
	err := resctrl.Mounted()
	if err == nil {
		c.rdt, err = resctrl.Decide(resctrl.Root, c.id, section)
	}
	if err != nil {
		return fmt.Errorf("config.json: linux.intelRdt: %w", err)
	}
	c.st.Groups, c.st.Tasks = c.rdt.Remove, c.rdt.Tasks
	return nil
}

func (c *creation) moveDevices() error {
	if len(c.spaces.Devices) == 0 {
		return nil
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(c.st.Pid) + "/ns/net")
	if err != nil {
		return fmt.Errorf("linux.netDevices: %w", err)
	}
	defer ns.Close()
	for _, d := range c.spaces.Devices {
		if err := netdevice.Move(d.From, d.To, ns); err != nil {
			return fmt.Errorf("linux.netDevices.%s: %w", d.From, err)
		}
	}
	return nil
}

// spaceName is the name of a namespace's file in /proc/PID/ns.
func spaceName(kind uintptr) string {
	switch kind {
	case unix.CLONE_NEWNET:
		return "net"
	case unix.CLONE_NEWIPC:
		return "ipc"
	case unix.CLONE_NEWUTS:
		return "uts"
	}
	return "user"
}

// writeOffsets sets the clocks of the time namespace a process has made for its children (time_namespaces(7)).
func writeOffsets(pid int, text string) error {
	if err := os.WriteFile("/proc/"+strconv.Itoa(pid)+"/timens_offsets", []byte(text), 0); err != nil {
		return fmt.Errorf("linux.timeOffsets: %w", err)
	}
	return nil
}

// initially starts a process from a thread that runs on given CPUs only (config.md, execCPUAffinity: "before the
// transition to container's cgroup").
func initially(a *specs.CPUAffinity, start func() error) error {
	if a == nil || a.Initial == "" {
		return start()
	}
	cpus, err := program.Numbers(a.Initial)
	if err != nil {
		return fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	var old unix.CPUSet
	if err := unix.SchedGetaffinity(0, &old); err != nil {
		return fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	set := unix.NewCPUSet(int(cpus[len(cpus)-1]) + 1)
	for _, n := range cpus {
		set.Set(int(n))
	}
	if err := unix.SchedSetaffinityDynamic(0, set); err != nil {
		return fmt.Errorf("process.execCPUAffinity.initial: %w", err)
	}
	defer unix.SchedSetaffinity(0, &old)
	return start()
}
