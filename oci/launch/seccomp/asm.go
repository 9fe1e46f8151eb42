package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Offsets in struct seccomp_data (seccomp(2)), little endian.
const (
	offNr   = 0
	offArch = 4
	offArgs = 16
)

func load(prog *[]unix.SockFilter, off uint32) {
	*prog = append(*prog, unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: off})
}

func jump(op uint16, k uint32, jt, jf uint8) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | op | unix.BPF_K, Jt: jt, Jf: jf, K: k}
}

// hop jumps over n instructions, any number.
func hop(n int) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JA, K: uint32(n)}
}

func answer(r ret) unix.SockFilter {
	return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: uint32(r)}
}

// tree writes a balanced search for the run that holds the number in the
// accumulator.
func (p *profile) tree(runs []run) []unix.SockFilter {
	if len(runs) == 1 {
		return p.leaf(runs[0].v)
	}
	half := len(runs) / 2
	left, right := p.tree(runs[:half]), p.tree(runs[half:])
	var prog []unix.SockFilter
	if len(left) <= 255 {
		prog = append(prog, jump(unix.BPF_JGE, runs[half].first, uint8(len(left)), 0))
	} else {
		prog = append(prog, jump(unix.BPF_JGE, runs[half].first, 0, 1), hop(len(left)))
	}
	prog = append(prog, left...)
	return append(prog, right...)
}

// leaf writes a verdict.
func (p *profile) leaf(v verdict) []unix.SockFilter {
	var prog []unix.SockFilter
	for _, t := range v.tests {
		prog = append(prog, t.code()...)
	}
	return append(prog, answer(v.ret))
}

// Where a condition's jumps go while they are not placed yet: to the next
// condition, or past the test.
const (
	onward = 0
	pass   = 254
	miss   = 255
)

// code writes one test; it falls through when a condition does not hold. Six
// conditions take at most 37 instructions, within reach of conditional jumps.
func (t test) code() []unix.SockFilter {
	var prog []unix.SockFilter
	for _, c := range t.conds {
		begin := len(prog)
		prog = append(prog, c.code()...)
		for i := begin; i < len(prog); i++ {
			place(&prog[i], pass, len(prog)-i-1)
		}
	}
	prog = append(prog, answer(t.ret))
	for i := range prog {
		place(&prog[i], miss, len(prog)-i-1)
	}
	return prog
}

// place gives jumps to a label their distance.
func place(f *unix.SockFilter, label uint8, distance int) {
	if f.Code&7 != unix.BPF_JMP {
		return
	}
	if f.Jt == label {
		f.Jt = uint8(distance)
	}
	if f.Jf == label {
		f.Jf = uint8(distance)
	}
}

// code writes one condition, upper half first; the upper half is left out
// where the mask hides it, as it does for 32-bit calls.
func (c cond) code() []unix.SockFilter {
	lo, hi := uint32(offArgs+8*c.index), uint32(offArgs+8*c.index+4)
	op, yes, no := uint16(unix.BPF_JEQ), uint8(pass), uint8(miss)
	switch c.op {
	case specs.OpNotEqual:
		yes, no = no, yes
	case specs.OpGreaterThan:
		op = unix.BPF_JGT
	case specs.OpLessEqual:
		op, yes, no = unix.BPF_JGT, no, yes
	case specs.OpGreaterEqual:
		op = unix.BPF_JGE
	case specs.OpLessThan:
		op, yes, no = unix.BPF_JGE, no, yes
	}
	var prog []unix.SockFilter
	half := func(off uint32, mask, value uint64) {
		load(&prog, off)
		if uint32(mask) != 1<<32-1 {
			prog = append(prog, unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: uint32(mask)})
		}
	}
	if c.mask>>32 != 0 || c.value>>32 != 0 {
		half(hi, c.mask>>32, c.value>>32)
		upper := uint32(c.value >> 32)
		if op == unix.BPF_JEQ {
			prog = append(prog, jump(unix.BPF_JEQ, upper, onward, no))
		} else {
			prog = append(prog, jump(unix.BPF_JGT, upper, yes, onward), jump(unix.BPF_JEQ, upper, onward, no))
		}
	}
	half(lo, c.mask, c.value)
	return append(prog, jump(op, uint32(c.value), yes, no))
}
