package seccomp

import (
	"fmt"
	"io/fs"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// ret is what a filter returns for a call: SECCOMP_RET_* and its data.
type ret uint32

const (
	badArch ret = unix.SECCOMP_RET_KILL_THREAD
	noCall  ret = unix.SECCOMP_RET_ERRNO | ret(unix.ENOSYS)
)

// rule is one line of a profile, checked and translated.
type rule struct {
	names []string
	ret   ret
	sets  [][]cond // any of these, each all of its conditions; empty: always
}

// cond is a test of one argument: arg&mask op value.
type cond struct {
	index int
	op    specs.LinuxSeccompOperator
	mask  uint64
	value uint64
}

// profile is a specs.LinuxSeccomp that is known to be sound.
type profile struct {
	def    ret
	archs  []specs.Arch // the machine's own first, no doubles
	flags  uint
	notify bool
	rules  []rule
	stub   bool // newer calls return ENOSYS
}

func parse(p *specs.LinuxSeccomp, own specs.Arch) (*profile, error) {
	out := &profile{archs: []specs.Arch{own}}
	var err error
	if out.def, err = parseAction(p.DefaultAction, p.DefaultErrnoRet); err != nil {
		return nil, fmt.Errorf("default action: %w", err)
	}
	switch p.DefaultAction {
	case specs.ActNotify:
		// The process that hands the listener over would wait for itself.
		return nil, fmt.Errorf("default action %s: %w", p.DefaultAction, fs.ErrInvalid)
	case specs.ActAllow, specs.ActLog, specs.ActTrace:
	default:
		out.stub = true
	}
	for _, a := range p.Architectures {
		if _, known := archOf(a); !known {
			return nil, fmt.Errorf("architecture %q: %w", a, fs.ErrInvalid)
		}
		if !slices.Contains(out.archs, a) {
			out.archs = append(out.archs, a)
		}
	}
	for i, s := range p.Syscalls {
		r, err := parseRule(s)
		if err != nil {
			return nil, fmt.Errorf("syscalls[%d]: %w", i, err)
		}
		out.notify = out.notify || s.Action == specs.ActNotify
		out.rules = append(out.rules, r)
	}
	if out.flags, err = parseFlags(p.Flags, out.notify); err != nil {
		return nil, err
	}
	return out, nil
}

// parseAction translates an action; errno is only for those that carry data.
func parseAction(a specs.LinuxSeccompAction, errno *uint) (ret, error) {
	data := ret(unix.EPERM)
	if errno != nil {
		if a != specs.ActErrno && a != specs.ActTrace {
			return 0, fmt.Errorf("errnoRet with action %s: %w", a, fs.ErrInvalid)
		}
		if *errno > unix.SECCOMP_RET_DATA {
			return 0, fmt.Errorf("errnoRet %d: %w", *errno, fs.ErrInvalid)
		}
		data = ret(*errno)
	}
	switch a {
	case specs.ActKill, specs.ActKillThread:
		return unix.SECCOMP_RET_KILL_THREAD, nil
	case specs.ActKillProcess:
		return unix.SECCOMP_RET_KILL_PROCESS, nil
	case specs.ActTrap:
		return unix.SECCOMP_RET_TRAP, nil
	case specs.ActErrno:
		return unix.SECCOMP_RET_ERRNO | data, nil
	case specs.ActTrace:
		return unix.SECCOMP_RET_TRACE | data, nil
	case specs.ActAllow:
		return unix.SECCOMP_RET_ALLOW, nil
	case specs.ActLog:
		return unix.SECCOMP_RET_LOG, nil
	case specs.ActNotify:
		return unix.SECCOMP_RET_USER_NOTIF, nil
	}
	return 0, fmt.Errorf("action %q: %w", a, fs.ErrInvalid)
}

func parseRule(s specs.LinuxSyscall) (rule, error) {
	if len(s.Names) == 0 || slices.Contains(s.Names, "") {
		return rule{}, fmt.Errorf("empty name: %w", fs.ErrInvalid)
	}
	if s.Action == specs.ActNotify && slices.Contains(s.Names, "write") {
		// runc refuses it: the handover of the listener may need write.
		return rule{}, fmt.Errorf("action %s for write: %w", s.Action, fs.ErrInvalid)
	}
	r := rule{names: s.Names}
	var err error
	if r.ret, err = parseAction(s.Action, s.ErrnoRet); err != nil {
		return rule{}, err
	}
	var set []cond
	var seen [6]bool
	double := false
	for i, a := range s.Args {
		c, err := parseCond(a)
		if err != nil {
			return rule{}, fmt.Errorf("args[%d]: %w", i, err)
		}
		double = double || seen[c.index]
		seen[c.index] = true
		set = append(set, c)
	}
	switch {
	case double:
		for _, c := range set {
			r.sets = append(r.sets, []cond{c})
		}
	case len(set) > 0:
		r.sets = [][]cond{set}
	}
	return r, nil
}

func parseCond(a specs.LinuxSeccompArg) (cond, error) {
	if a.Index > 5 {
		return cond{}, fmt.Errorf("index %d: %w", a.Index, fs.ErrInvalid)
	}
	c := cond{index: int(a.Index), op: a.Op, mask: ^uint64(0), value: a.Value}
	switch a.Op {
	case specs.OpMaskedEqual:
		// Bits of the value that the mask hides can't be asked for; libseccomp
		// drops them, where keeping them would mean "never".
		c.mask, c.value = a.Value, a.ValueTwo&a.Value
	case specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo, specs.OpGreaterEqual, specs.OpGreaterThan:
	default:
		return cond{}, fmt.Errorf("operator %q: %w", a.Op, fs.ErrInvalid)
	}
	return c, nil
}

// parseFlags translates filter flags. A profile without the field gets
// SPEC_ALLOW, as runc does: the mitigation it turns off costs every program,
// and those that want it ask with prctl. TSYNC is accepted and means nothing,
// for the filter is loaded by the only thread.
func parseFlags(list []specs.LinuxSeccompFlag, notify bool) (uint, error) {
	if list == nil {
		return unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW | listener(notify), nil
	}
	flags := listener(notify)
	for _, f := range list {
		switch f {
		case "SECCOMP_FILTER_FLAG_TSYNC":
		case specs.LinuxSeccompFlagLog:
			flags |= unix.SECCOMP_FILTER_FLAG_LOG
		case specs.LinuxSeccompFlagSpecAllow:
			flags |= unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW
		case specs.LinuxSeccompFlagWaitKillableRecv:
			// The kernel refuses it on a filter without a listener.
			if notify {
				flags |= unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
			}
		default:
			return 0, fmt.Errorf("flag %q: %w", f, fs.ErrInvalid)
		}
	}
	return flags, nil
}

func listener(notify bool) uint {
	if notify {
		return unix.SECCOMP_FILTER_FLAG_NEW_LISTENER
	}
	return 0
}
