package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup/systemd"
)

// Devices replaces the group's device rules. The rules apply in order, as on
// v1: one of type "a" sets the default and forgets those before it, others add
// to the exceptions from the default. On v2 they become an eBPF program that
// takes the place of the ones before it without a moment of no filter.
func (g *Group) Devices(rules []Device) error {
	if err := setDevices(g, rules); err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, err)
	}
	return nil
}

func setDevices(g *Group, rules []Device) error {
	policy, err := newPolicy(rules)
	if err != nil {
		return err
	}
	if d := g.dir("devices"); d != nil {
		for _, w := range policy.v1() {
			if err := writeFile(d.path+"/"+w.file, w.value); err != nil {
				return err
			}
		}
		return nil
	}
	d := g.dir(unifiedName)
	if d == nil || g.lay.mode != Unified {
		return fmt.Errorf("devices: controller is not mounted: %w", errors.ErrUnsupported)
	}
	return attachDevices(d.path, policy.program())
}

// Access bits of a device request (BPF_DEVCG_ACC_*, linux/bpf.h).
const (
	accessMknod = 1 << iota
	accessRead
	accessWrite
	accessAll = accessMknod | accessRead | accessWrite
)

// Device types of a request (BPF_DEVCG_DEV_*, linux/bpf.h).
const (
	typeBlock = 1
	typeChar  = 2
)

// anyNumber is a major or minor that matches all.
const anyNumber = -1

type exception struct {
	kind         int32 // typeBlock, typeChar
	major, minor int32 // anyNumber for all
	access       int32
}

// policy is what a list of rules comes to: a default and exceptions from it.
type policy struct {
	allow      bool
	exceptions []exception
}

// newPolicy plays the rules through. A fresh v1 group inherits its parent's
// policy; OCI lists begin with a rule for all devices, and one that does not is
// read as if everything had been denied.
func newPolicy(rules []Device) (policy, error) {
	var p policy
	for i, r := range rules {
		if err := p.add(r); err != nil {
			return policy{}, fmt.Errorf("device rule %d: %w", i, err)
		}
	}
	return p, nil
}

func (p *policy) add(r Device) error {
	access, err := parseAccess(r.Access)
	if err != nil {
		return err
	}
	major, err1 := parseNumber(r.Major)
	minor, err2 := parseNumber(r.Minor)
	if err := errors.Join(err1, err2); err != nil {
		return err
	}
	var kinds []int32
	switch r.Type {
	case "", "a":
		if major == anyNumber && minor == anyNumber && access == accessAll {
			*p = policy{allow: r.Allow}
			return nil
		}
		kinds = []int32{typeBlock, typeChar}
	case "b":
		kinds = []int32{typeBlock}
	case "c", "u":
		kinds = []int32{typeChar}
	default:
		return fmt.Errorf("type %q: %w", r.Type, fs.ErrInvalid)
	}
	for _, k := range kinds {
		e := exception{kind: k, major: major, minor: minor, access: access}
		if r.Allow != p.allow {
			p.insert(e)
		} else if err := p.cut(e); err != nil {
			return err
		}
	}
	return nil
}

func (p *policy) insert(e exception) {
	for i, x := range p.exceptions {
		if x.kind == e.kind && x.major == e.major && x.minor == e.minor {
			p.exceptions[i].access |= e.access
			return
		}
	}
	p.exceptions = append(p.exceptions, e)
}

// cut takes access out of the exceptions e covers. An exception wider than e
// that would need a hole can't be written on v1, so it is refused rather than
// left as wide as it was.
func (p *policy) cut(e exception) error {
	kept := p.exceptions[:0:0]
	for _, x := range p.exceptions {
		covers := x.kind == e.kind && (e.major == anyNumber || e.major == x.major) && (e.minor == anyNumber || e.minor == x.minor)
		overlaps := x.kind == e.kind && overlap(e.major, x.major) && overlap(e.minor, x.minor) && x.access&e.access != 0
		if overlaps && !covers {
			return fmt.Errorf("a hole in an earlier, wider rule: %w", errors.ErrUnsupported)
		}
		if covers {
			x.access &^= e.access
		}
		if x.access != 0 {
			kept = append(kept, x)
		}
	}
	p.exceptions = kept
	return nil
}

func overlap(a, b int32) bool { return a == anyNumber || b == anyNumber || a == b }

func parseAccess(s string) (int32, error) {
	if s == "" {
		return accessAll, nil
	}
	var a int32
	for _, c := range s {
		switch c {
		case 'r':
			a |= accessRead
		case 'w':
			a |= accessWrite
		case 'm':
			a |= accessMknod
		default:
			return 0, fmt.Errorf("access %q: %w", s, fs.ErrInvalid)
		}
	}
	return a, nil
}

// parseNumber takes the kernel's numbers: 12 bits of major, 20 of minor; -1 is
// how some callers write "any".
func parseNumber(n *int64) (int32, error) {
	if n == nil || *n == -1 {
		return anyNumber, nil
	}
	if *n < 0 || *n >= 1<<20 {
		return 0, fmt.Errorf("number %d: %w", *n, fs.ErrInvalid)
	}
	return int32(*n), nil
}

// v1 lists the writes that set the policy whatever was there before.
func (p policy) v1() []write {
	all, other := "devices.deny", "devices.allow"
	if p.allow {
		all, other = other, all
	}
	writes := []write{{controller: "devices", file: all, value: "a"}}
	for _, e := range p.exceptions {
		writes = append(writes, write{controller: "devices", file: other, value: e.String()})
	}
	return writes
}

// properties are the same rules for systemd, which on v1 writes the group's devices anew whenever it is told anything of the
// unit, and allows all of them where it has no rules (systemd.resource-control(5); what it takes is that of version 240).
func (p policy) properties() ([]systemd.Property, error) {
	if p.allow {
		if len(p.exceptions) > 0 {
			return nil, fmt.Errorf("all devices but some: systemd has no property for that: %w", errors.ErrUnsupported)
		}
		return []systemd.Property{{Name: "DeviceAllow", Value: [][2]string{}}, {Name: "DevicePolicy", Value: "auto"}}, nil
	}
	list := make([][2]string, 0, len(p.exceptions))
	for _, e := range p.exceptions {
		kind, node := pick(e.kind == typeBlock, "block", "char"), ""
		switch {
		case e.major == anyNumber && e.minor == anyNumber:
			node = kind + "-*"
		case e.minor == anyNumber:
			node = fmt.Sprintf("%s-%d", kind, e.major)
		case e.major == anyNumber:
			return nil, fmt.Errorf("device rule %s: systemd has no property for that: %w", e, errors.ErrUnsupported)
		default:
			node = fmt.Sprintf("/dev/%s/%d:%d", kind, e.major, e.minor)
		}
		list = append(list, [2]string{node, e.perms()})
	}
	// The empty list forgets what was there; a list is added to it.
	return []systemd.Property{{Name: "DeviceAllow", Value: [][2]string{}}, {Name: "DevicePolicy", Value: "strict"}, {Name: "DeviceAllow", Value: list}}, nil
}

// String is the exception as v1 reads it ("c 1:3 rwm").
func (e exception) String() string {
	num := func(n int32) string {
		if n == anyNumber {
			return "*"
		}
		return strconv.Itoa(int(n))
	}
	return pick(e.kind == typeBlock, "b ", "c ") + num(e.major) + ":" + num(e.minor) + " " + e.perms()
}

// perms is the access as both write it ("rwm").
func (e exception) perms() string {
	var b strings.Builder
	for _, a := range []struct {
		bit  int32
		name byte
	}{{accessRead, 'r'}, {accessWrite, 'w'}, {accessMknod, 'm'}} {
		if e.access&a.bit != 0 {
			b.WriteByte(a.name)
		}
	}
	return b.String()
}

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
