package seccomp

import (
	"fmt"
	"io/fs"
	"math"
	"slices"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Program is a compiled filter. It depends on the profile and the machine's
// architecture only.
type Program struct {
	Filter []unix.SockFilter
	Flags  uint // SECCOMP_FILTER_FLAG_*
	Notify bool // loading it yields a listener
}

// maxLen is the longest program the kernel takes (BPF_MAXINSNS).
const maxLen = 4096

// Compile turns a profile into a filter for this machine. Errors wrap
// fs.ErrInvalid and name the place in the profile; unknown system call names
// are not among them.
func Compile(p *specs.LinuxSeccomp) (Program, error) {
	own, err := native()
	if err != nil {
		return Program{}, err
	}
	return compileFor(p, own)
}

func compileFor(p *specs.LinuxSeccomp, own specs.Arch) (Program, error) {
	if p == nil {
		return Program{}, fmt.Errorf("seccomp: no profile: %w", fs.ErrInvalid)
	}
	parsed, err := parse(p, own)
	if err != nil {
		return Program{}, fmt.Errorf("seccomp: %w", err)
	}
	filter := parsed.assemble()
	if len(filter) > maxLen {
		return Program{}, fmt.Errorf("seccomp: %d instructions, the kernel takes %d: %w", len(filter), maxLen, fs.ErrInvalid)
	}
	return Program{Filter: filter, Flags: parsed.flags, Notify: parsed.notify}, nil
}

// verdict is what to do about one system call: a constant, or the first of some
// tests that matches and the default after them.
type verdict struct {
	nr    uint32
	ret   ret
	tests []test
}

type test struct {
	conds []cond
	ret   ret
}

// assemble writes the whole program: one block per audit architecture.
func (p *profile) assemble() []unix.SockFilter {
	var prog []unix.SockFilter
	load(&prog, offArch)
	var done []uint32
	for _, name := range p.archs {
		a, _ := archOf(name)
		if a == nil || slices.Contains(done, a.audit) {
			continue
		}
		done = append(done, a.audit)
		block := p.block(a.audit)
		// The next test of the architecture is further away than a conditional
		// jump reaches.
		prog = append(prog, jump(unix.BPF_JEQ, a.audit, 1, 0), hop(len(block)))
		prog = append(prog, block...)
	}
	return append(prog, answer(badArch))
}

// block decides the calls of one audit architecture. On x86-64 x32 has the
// upper half of the numbers.
func (p *profile) block(audit uint32) []unix.SockFilter {
	var prog []unix.SockFilter
	load(&prog, offNr)
	var runs []run
	if audit == unix.AUDIT_ARCH_X86_64 {
		runs = append(p.runs(specs.ArchX86_64, 0, x32Bit-1), p.runs(specs.ArchX32, x32Bit, math.MaxUint32)...)
		// A tracer's "skip this call"; not an x32 call (seccomp(2)).
		runs = append(runs, run{first: math.MaxUint32, v: verdict{ret: p.skipped()}})
	} else {
		for _, name := range p.archs {
			if a, _ := archOf(name); a != nil && a.audit == audit {
				runs = p.runs(name, 0, math.MaxUint32)
			}
		}
	}
	return append(prog, p.tree(merge(runs))...)
}

// skipped is the answer for number -1.
func (p *profile) skipped() ret {
	if p.stub {
		return noCall
	}
	return p.def
}

// run is a range of numbers, up to the next run's first, with one verdict.
type run struct {
	first uint32
	v     verdict
}

// runs cuts the numbers first..last of an architecture into runs.
func (p *profile) runs(name specs.Arch, first, last uint32) []run {
	if !slices.Contains(p.archs, name) {
		return []run{{first: first, v: verdict{ret: p.unlisted()}}}
	}
	a, _ := archOf(name)
	verdicts, newest, named := p.verdicts(a)
	after := p.def
	if p.stub && named {
		after = noCall
	}
	var runs []run
	next := first // first number that is not in a run yet
	for _, v := range verdicts {
		if v.nr > next {
			runs = append(runs, run{first: next, v: verdict{ret: p.def}})
		}
		runs = append(runs, run{first: v.nr, v: v})
		next = v.nr + 1
	}
	if next <= newest {
		runs = append(runs, run{first: next, v: verdict{ret: p.def}})
		next = newest + 1
	}
	if next <= last && next >= first {
		runs = append(runs, run{first: next, v: verdict{ret: after}})
	}
	return runs
}

// unlisted is the answer for x32 where a profile does not list it.
func (p *profile) unlisted() ret {
	if p.stub {
		return noCall
	}
	return badArch
}

// merge joins neighbours that have the same constant verdict.
func merge(runs []run) []run {
	out := runs[:0:0]
	for _, r := range runs {
		if n := len(out); n > 0 && len(r.v.tests) == 0 && len(out[n-1].v.tests) == 0 && out[n-1].v.ret == r.v.ret {
			continue
		}
		out = append(out, r)
	}
	return out
}

// verdicts collects what the rules say about each call of an architecture, by
// number, and the highest number any rule names, whether it was dropped or not.
func (p *profile) verdicts(a *arch) (list []verdict, newest uint32, named bool) {
	byNr := map[uint32]*entry{}
	for _, r := range p.rules {
		for _, name := range r.names {
			if nr, ok := a.lookup(name); ok {
				newest, named = max(newest, nr), true
				p.enter(byNr, nr, r.ret, r.sets)
			}
			if !a.mux {
				continue
			}
			if by, number, ok := muxed(name); ok {
				nr, _ := a.lookup(by)
				newest, named = max(newest, nr), true
				p.enter(byNr, nr, r.ret, demux(r.sets, number))
			}
		}
	}
	for nr, e := range byNr {
		list = append(list, e.verdict(nr, p.def, a.wide))
	}
	slices.SortFunc(list, func(x, y verdict) int { return int(int64(x.nr) - int64(y.nr)) })
	return list, newest, named
}

// demux turns conditions of a multiplexed call into those of its multiplexer:
// argument 0 becomes the number of the call.
func demux(sets [][]cond, number uint64) [][]cond {
	is := cond{index: 0, op: specs.OpEqualTo, mask: ^uint64(0), value: number}
	if len(sets) == 0 {
		return [][]cond{{is}}
	}
	var out [][]cond
	for _, set := range sets {
		conds := []cond{is}
		for _, c := range set {
			if c.index != 0 {
				conds = append(conds, c)
			}
		}
		out = append(out, conds)
	}
	return out
}

// entry is a verdict in the making.
type entry struct {
	always bool
	ret    ret
	tests  []test
}

func (p *profile) enter(byNr map[uint32]*entry, nr uint32, to ret, sets [][]cond) {
	if to == p.def {
		return
	}
	e := byNr[nr]
	if e == nil {
		e = &entry{}
		byNr[nr] = e
	}
	switch {
	case e.always:
	case len(sets) == 0:
		e.always, e.ret, e.tests = true, to, nil
	default:
		for _, set := range sets {
			e.tests = append(e.tests, test{conds: set, ret: to})
		}
	}
}

func (e *entry) verdict(nr uint32, def ret, wide bool) verdict {
	if e.always {
		return verdict{nr: nr, ret: e.ret}
	}
	v := verdict{nr: nr, ret: def}
	for _, t := range e.tests {
		conds := make([]cond, len(t.conds))
		for i, c := range t.conds {
			if !wide {
				c.mask &= math.MaxUint32
				c.value &= math.MaxUint32
			}
			conds[i] = c
		}
		v.tests = append(v.tests, test{conds: conds, ret: t.ret})
	}
	return v
}
