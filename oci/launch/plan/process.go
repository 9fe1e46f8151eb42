package plan

import (
	"fmt"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/program"
)

// process fills in what init becomes.
func (m *maker) process() error {
	m.p.OOMScore = m.c.Process.OOMScoreAdj
	p := &m.p.Program.Process
	p.KeepFDs = m.host.PreserveFDs
	warnings, err := Process(m.c.Process, p, m.host.NoFile)
	if err != nil {
		return err
	}
	m.c.Warnings = append(m.c.Warnings, warnings...)
	p.Affinity = "" // execCPUAffinity is of exec alone (config.md, "Linux Process")
	if d := m.c.Linux.Personality; d != nil {
		if err := personality(d, &p.Security); err != nil {
			return err
		}
	}
	m.p.Program.Listen = m.source(Source{Kind: Listen, Field: "start socket"})
	if m.host.Listener != "" {
		p.Security.Notify = m.source(Source{Kind: Notify, Path: m.host.Listener, Field: "linux.seccomp.listenerPath"})
	}
	return nil
}

// Process converts the process section, for create and exec alike. What cannot be had and need not stop the process
// comes back as warnings.
func Process(from *specs.Process, p *program.Process, nofile program.Rlimit) (warnings []string, err error) {
	if err := checkProcess(from); err != nil {
		return nil, err
	}
	p.Args, p.Env, p.Cwd = from.Args, from.Env, from.Cwd
	if err := checkIDs(&from.User); err != nil {
		return nil, err
	}
	p.UID, p.GID, p.Groups, p.SetGroups = from.User.UID, from.User.GID, from.User.AdditionalGids, true
	p.Umask = 0o022
	if from.User.Umask != nil {
		p.Umask = *from.User.Umask & 0o777
	}
	p.Terminal = from.Terminal
	s := &p.Security
	s.NoNewPrivs, s.AppArmor, s.SELinux = from.NoNewPrivileges, from.ApparmorProfile, from.SelinuxLabel
	s.Caps, warnings = capabilities(from.Capabilities)
	if p.Rlimits, err = rlimits(from.Rlimits, nofile); err != nil {
		return nil, err
	}
	if err := scheduler(from, &p.Schedule); err != nil {
		return nil, err
	}
	if a := from.ExecCPUAffinity; a != nil {
		for name, list := range map[string]string{"initial": a.Initial, "final": a.Final} {
			if _, err := program.Numbers(list); err != nil {
				return nil, invalid("process.execCPUAffinity.%s %q: no list of CPUs", name, list)
			}
		}
		p.Affinity = a.Final
	}
	return warnings, nil
}

// checkIDs refuses the number that to setresuid(2) and setresgid(2) means "as it is": root.
func checkIDs(u *specs.User) error {
	const none = 1<<32 - 1
	switch {
	case u.UID == none:
		return invalid("process.user.uid %d: not an id", u.UID)
	case u.GID == none:
		return invalid("process.user.gid %d: not an id", u.GID)
	}
	for i, g := range u.AdditionalGids {
		if g == none {
			return invalid("process.user.additionalGids[%d] %d: not an id", i, g)
		}
	}
	return nil
}

func rlimits(list []specs.POSIXRlimit, nofile program.Rlimit) ([]program.Rlimit, error) {
	var out []program.Rlimit
	seen := [len(program.Resources)]bool{}
	for i, l := range list {
		n := program.Resource(l.Type)
		switch {
		case n < 0:
			return nil, invalid("process.rlimits[%d].type %q: not known", i, l.Type)
		case seen[n]:
			return nil, invalid("process.rlimits[%d]: second one of type %s", i, l.Type)
		case l.Soft > l.Hard:
			return nil, invalid("process.rlimits[%d]: soft above hard", i)
		}
		seen[n] = true
		out = append(out, program.Rlimit{Resource: uint64(n), Soft: l.Soft, Hard: l.Hard})
	}
	if !seen[unix.RLIMIT_NOFILE] && nofile.Soft != 0 {
		out = append(out, nofile)
	}
	return out, nil
}

func index(list []string, s string) int {
	for i := range list {
		if list[i] == s {
			return i
		}
	}
	return -1
}

// Capabilities lists the names known, in the kernel's order.
func Capabilities() []string {
	var out []string
	for _, n := range program.CapabilityNames {
		out = append(out, "CAP_"+n)
	}
	return out
}

// capabilities are none when the config is silent. One that is not known is a warning, as is one that cannot be had
// because the set it depends on lacks it (config.md, "Linux Process").
func capabilities(c *specs.LinuxCapabilities) (*program.Capabilities, []string) {
	out := new(program.Capabilities)
	if c == nil {
		return out, nil
	}
	var warnings []string
	for _, set := range [...]struct {
		name string
		list []string
		mask *uint64
	}{
		{"bounding", c.Bounding, &out.Bounding}, {"effective", c.Effective, &out.Effective}, {"inheritable", c.Inheritable, &out.Inheritable},
		{"permitted", c.Permitted, &out.Permitted}, {"ambient", c.Ambient, &out.Ambient},
	} {
		for _, name := range set.list {
			n := program.Capability(name)
			if n < 0 {
				warnings = append(warnings, fmt.Sprintf("config.json: process.capabilities.%s: %q not known", set.name, name))
				continue
			}
			*set.mask |= 1 << n
		}
	}
	for _, cut := range [...]struct {
		name, by string
		mask     *uint64
		bound    uint64
	}{
		{"effective", "permitted", &out.Effective, out.Permitted}, {"ambient", "permitted", &out.Ambient, out.Permitted},
		{"ambient", "inheritable", &out.Ambient, out.Inheritable},
	} {
		for n := range program.CapabilityNames {
			if bit := uint64(1) << n; *cut.mask&bit != 0 && cut.bound&bit == 0 {
				warnings = append(warnings, fmt.Sprintf("config.json: process.capabilities.%s: CAP_%s is not %s", cut.name, program.CapabilityNames[n], cut.by))
			}
		}
		*cut.mask &= cut.bound
	}
	return out, warnings
}

// policies is a table; it is never written. Index is the kernel's number, 4 (ISO) was never merged.
var policies = [...]string{"SCHED_OTHER", "SCHED_FIFO", "SCHED_RR", "SCHED_BATCH", "", "SCHED_IDLE", "SCHED_DEADLINE"}

// schedFlags is a table; it is never written. Index is the bit.
var schedFlags = [...]string{"SCHED_FLAG_RESET_ON_FORK", "SCHED_FLAG_RECLAIM", "SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_KEEP_POLICY",
	"SCHED_FLAG_KEEP_PARAMS", "SCHED_FLAG_UTIL_CLAMP_MIN", "SCHED_FLAG_UTIL_CLAMP_MAX"}

func scheduler(from *specs.Process, s *program.Schedule) error {
	if c := from.Scheduler; c != nil {
		n := index(policies[:], string(c.Policy))
		if n < 0 || c.Policy == "" {
			return invalid("process.scheduler.policy %q: not known", c.Policy)
		}
		for _, f := range c.Flags {
			bit := index(schedFlags[:], string(f))
			if bit < 0 {
				return invalid("process.scheduler.flags: %q not known", f)
			}
			s.Flags |= 1 << bit
		}
		if c.Priority < 0 {
			return invalid("process.scheduler.priority: negative")
		}
		if c.Nice < -20 || c.Nice > 19 { // the kernel would take the nearest it has
			return invalid("process.scheduler.nice %d: not within -20 and 19", c.Nice)
		}
		s.Set, s.Policy, s.Nice, s.Priority = true, uint64(n), int64(c.Nice), uint64(c.Priority)
		s.Runtime, s.Deadline, s.Period = c.Runtime, c.Deadline, c.Period
	}
	if c := from.IOPriority; c != nil {
		class := index([]string{"", "IOPRIO_CLASS_RT", "IOPRIO_CLASS_BE", "IOPRIO_CLASS_IDLE"}, string(c.Class))
		if class <= 0 || c.Priority < 0 || c.Priority > 7 {
			return invalid("process.ioPriority: class %q, priority %d", c.Class, c.Priority)
		}
		s.IOSet, s.IOPrio = true, uint64(class<<13|c.Priority)
	}
	return nil
}

func personality(d *specs.LinuxPersonality, s *program.Security) error {
	if len(d.Flags) > 0 {
		return unsupported("linux.personality.flags")
	}
	switch d.Domain {
	case specs.PerLinux:
		s.Personality = 0
	case specs.PerLinux32:
		s.Personality = 8 // PER_LINUX32, linux/personality.h
	default:
		return invalid("linux.personality.domain %q: not known", d.Domain)
	}
	s.Persona = true
	return nil
}

// memModes is a table; it is never written. Index is the kernel's number (linux/mempolicy.h).
var memModes = [...]string{"MPOL_DEFAULT", "MPOL_PREFERRED", "MPOL_BIND", "MPOL_INTERLEAVE", "MPOL_LOCAL", "MPOL_PREFERRED_MANY",
	"MPOL_WEIGHTED_INTERLEAVE"}

// memFlags is a table; it is never written. Index is the bit, from 13 on.
var memFlags = [...]string{"MPOL_F_NUMA_BALANCING", "MPOL_F_RELATIVE_NODES", "MPOL_F_STATIC_NODES"}

// MemoryModes lists what linux.memoryPolicy.mode may be.
func MemoryModes() []string { return append([]string(nil), memModes[:]...) }

// MemoryFlags lists what linux.memoryPolicy.flags may have.
func MemoryFlags() []string { return append([]string(nil), memFlags[:]...) }

func memPolicy(p *specs.LinuxMemoryPolicy) (program.Step, error) {
	mode := index(memModes[:], string(p.Mode))
	if mode < 0 {
		return program.Step{}, invalid("linux.memoryPolicy.mode %q: not known", p.Mode)
	}
	if _, err := program.Numbers(p.Nodes); err != nil {
		return program.Step{}, invalid("linux.memoryPolicy.nodes %q: no list of nodes", p.Nodes)
	}
	s := program.Step{Op: program.OpMemPolicy, Slot: -1, Data: p.Nodes, Num: int64(mode)}
	for _, f := range p.Flags {
		bit := index(memFlags[:], string(f))
		if bit < 0 {
			return program.Step{}, invalid("linux.memoryPolicy.flags: %q not known", f)
		}
		s.Flags |= 1 << (13 + bit)
	}
	return s, nil
}

func (m *maker) readHooks() error {
	h := m.c.Hooks
	if h == nil {
		return nil
	}
	for _, list := range [...]struct {
		name string
		from []specs.Hook
		to   *[]hook.Hook
	}{
		//lint:ignore SA1019 Deprecated, but a runtime has to honour it (runtime-spec, config.md, Hooks).
		{"prestart", h.Prestart, &m.p.Hooks.Prestart}, {"createRuntime", h.CreateRuntime, &m.p.Hooks.CreateRuntime},
		{"poststart", h.Poststart, &m.p.Hooks.Poststart}, {"poststop", h.Poststop, &m.p.Hooks.Poststop},
	} {
		var err error
		if *list.to, err = hooks(list.name, list.from); err != nil {
			return err
		}
	}
	//lint:ignore SA1019 as above
	m.hooks = len(h.Prestart)+len(h.CreateRuntime)+len(h.CreateContainer) > 0
	start, err := hooks("startContainer", h.StartContainer)
	for _, one := range start {
		m.p.Program.Finish = append(m.p.Program.Finish, one.Step(nil))
	}
	return err
}

func hooks(name string, from []specs.Hook) ([]hook.Hook, error) {
	var out []hook.Hook
	for i, h := range from {
		if !strings.HasPrefix(h.Path, "/") {
			return nil, invalid("hooks.%s[%d].path %q: not an absolute path", name, i, h.Path)
		}
		one := hook.Hook{Path: h.Path, Args: h.Args, Env: h.Env}
		if h.Timeout != nil {
			if *h.Timeout <= 0 {
				return nil, invalid("hooks.%s[%d].timeout: not above 0", name, i)
			}
			one.Timeout = time.Duration(*h.Timeout) * time.Second
		}
		out = append(out, one)
	}
	return out, nil
}

// hookSteps are the hooks between the mounts and the pivot. The state they are handed is filled in when the pid is
// known (Plan.SetState).
func (m *maker) hookSteps() []program.Step {
	var steps []program.Step
	//lint:ignore SA1019 as above
	if len(m.c.Hooks.Prestart)+len(m.c.Hooks.CreateRuntime) > 0 {
		steps = append(steps, program.Step{Op: program.OpHooks, Slot: -1, Data: "createRuntime"})
	}
	inside, _ := hooks("createContainer", m.c.Hooks.CreateContainer)
	for _, h := range inside {
		steps = append(steps, h.Step(nil))
	}
	return steps
}

// SetState fills in what hooks inside of the container read on their standard input.
func (p *Plan) SetState(create, start []byte) {
	for i := range p.Program.Setup {
		if s := &p.Program.Setup[i]; s.Op == program.OpRun {
			s.Data = string(create)
		}
	}
	for i := range p.Program.Finish {
		p.Program.Finish[i].Data = string(start)
	}
}
