package cgroup

import "golang.org/x/sys/unix"

// insn is one eBPF instruction (struct bpf_insn, linux/bpf.h).
type insn struct {
	code uint8
	regs uint8 // source << 4 | destination
	off  int16
	imm  int32
}

// Opcodes the device program is made of.
const (
	opLoadW  = unix.BPF_LDX | unix.BPF_MEM | unix.BPF_W
	opMovReg = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_X
	opMovImm = unix.BPF_ALU64 | unix.BPF_MOV | unix.BPF_K
	opAndImm = unix.BPF_ALU64 | unix.BPF_AND | unix.BPF_K
	opRshImm = unix.BPF_ALU64 | unix.BPF_RSH | unix.BPF_K
	opJne    = unix.BPF_JMP | unix.BPF_JNE | unix.BPF_K
	opJset   = unix.BPF_JMP | unix.BPF_JSET | unix.BPF_K
	opExit   = unix.BPF_JMP | unix.BPF_EXIT
)

// program is the policy as a BPF_PROG_TYPE_CGROUP_DEVICE program. Its context
// is struct bpf_cgroup_dev_ctx {u32 access << 16 | type, major, minor}; it
// returns 1 to allow. As on v1, an exception from "deny" must cover all of the
// access asked for, one from "allow" any of it.
//
//	r2 type, r3 access, r4 major, r5 minor
func (p policy) program() []insn {
	code := []insn{
		{code: opLoadW, regs: 1<<4 | 2, off: 0},
		{code: opMovReg, regs: 2<<4 | 3},
		{code: opAndImm, regs: 2, imm: 0xffff},
		{code: opRshImm, regs: 3, imm: 16},
		{code: opLoadW, regs: 1<<4 | 4, off: 4},
		{code: opLoadW, regs: 1<<4 | 5, off: 8},
	}
	for _, e := range p.exceptions {
		code = append(code, p.test(e)...)
	}
	return append(code, verdict(p.allow)...)
}

// test is the code for one exception; it falls through when e does not match.
func (p policy) test(e exception) []insn {
	tests := []insn{{code: opJne, regs: 2, imm: e.kind}}
	var body []insn
	if p.allow {
		// Asked for any of e.access: hop over the jump to the next exception.
		body = append(body, insn{code: opJset, regs: 3, off: 1, imm: e.access}, insn{code: unix.BPF_JMP | unix.BPF_JA})
	} else if e.access != accessAll {
		body = append(body, insn{code: opJset, regs: 3, imm: accessAll &^ e.access})
	}
	tests = append(tests, body...)
	if e.major != anyNumber {
		tests = append(tests, insn{code: opJne, regs: 4, imm: e.major})
	}
	if e.minor != anyNumber {
		tests = append(tests, insn{code: opJne, regs: 5, imm: e.minor})
	}
	code := append(tests, verdict(!p.allow)...)
	for i := range code[:len(tests)] {
		if code[i].off == 0 {
			code[i].off = int16(len(code) - i - 1)
		}
	}
	return code
}

func verdict(allow bool) []insn {
	r := insn{code: opMovImm}
	if allow {
		r.imm = 1
	}
	return []insn{r, {code: opExit}}
}
