package program

import (
	"encoding/binary"
	"fmt"
	"io/fs"
)

// Limits of a message. The kernel accepts 6 MiB of arguments and environment at most (execve(2)).
const (
	MaxMessage = 16 << 20
	maxSlots   = 1 << 14
)

// codec walks over a program in one of two directions, so that there is one description of the form and reader and
// writer can't disagree. After an error it does nothing more.
type codec struct {
	buf  []byte
	pos  int
	read bool
	err  error
}

// Encode returns the wire form.
func (p *Program) Encode() []byte {
	c := codec{buf: make([]byte, 0, 4096)}
	p.visit(&c)
	return c.buf
}

// Decode reads a whole message. Every length is checked against what is left; trailing bytes, unknown operations and
// slots out of range are refused with fs.ErrInvalid.
func Decode(b []byte) (*Program, error) {
	if len(b) > MaxMessage {
		return nil, fmt.Errorf("program of %d bytes: %w", len(b), fs.ErrInvalid)
	}
	c := codec{buf: b, read: true}
	p := new(Program)
	p.visit(&c)
	if c.err == nil && c.pos != len(b) {
		c.fail("bytes after the end")
	}
	if c.err == nil {
		p.check(&c)
	}
	if c.err != nil {
		return nil, c.err
	}
	return p, nil
}

// check refuses slots that the message does not have, so that the init can use every one it is told of.
func (p *Program) check(c *codec) {
	if p.Slots < 0 || p.Slots > maxSlots || p.Listen >= p.Slots || p.Process.Security.Notify >= p.Slots {
		c.fail("slots")
	}
	if len(p.Process.Args) == 0 {
		c.fail("no arguments")
	}
	for _, list := range [...][]Step{p.Setup, p.Finish} {
		for i := range list {
			if s := &list[i]; s.Op == OpNone || s.Op >= opEnd || s.Slot < -1 || s.Slot >= p.Slots || !s.slots(p.Slots) {
				c.fail("step")
			}
		}
	}
}

// slots reports whether a step has the slots that its operation works on.
func (s *Step) slots(n int) bool {
	second := s.Num >= 0 && s.Num < int64(n)
	switch s.Op {
	case OpFilesystem, OpRoot, OpMount, OpCopyUp, OpSetns, OpTree, OpChroot:
		return s.Slot >= 0
	case OpMask:
		return s.Slot >= 0 && second
	case OpConsole:
		return second
	}
	return true
}

func (p *Program) visit(c *codec) {
	c.int(&p.Slots)
	c.int(&p.Listen)
	c.steps(&p.Setup)
	c.steps(&p.Finish)
	p.Process.visit(c)
}

func (s *Step) visit(c *codec) {
	op := uint64(s.Op)
	c.num(&op)
	if op >= uint64(opEnd) {
		c.fail("operation")
	}
	s.Op = Op(op)
	c.int(&s.Slot)
	c.num(&s.Flags)
	n := uint64(s.Num)
	c.num(&n)
	s.Num = int64(n)
	c.str(&s.Path)
	c.str(&s.Data)
	c.strs(&s.List)
}

func (p *Process) visit(c *codec) {
	c.strs(&p.Args)
	c.strs(&p.Env)
	c.str(&p.Cwd)
	c.u32(&p.UID)
	c.u32(&p.GID)
	n := c.count(len(p.Groups), 1)
	if c.read {
		p.Groups = make([]uint32, n)
	}
	for i := range p.Groups {
		c.u32(&p.Groups[i])
	}
	c.bool(&p.SetGroups)
	c.u32(&p.Umask)
	n = c.count(len(p.Rlimits), 3)
	if c.read {
		p.Rlimits = make([]Rlimit, n)
	}
	for i := range p.Rlimits {
		c.num(&p.Rlimits[i].Resource)
		c.num(&p.Rlimits[i].Soft)
		c.num(&p.Rlimits[i].Hard)
	}
	p.Security.visit(c)
	p.Schedule.visit(c)
	c.bool(&p.Terminal)
	c.num(&p.KeepFDs)
	c.str(&p.Affinity)
}

func (s *Security) visit(c *codec) {
	have := s.Caps != nil
	c.bool(&have)
	if have {
		if c.read {
			s.Caps = new(Capabilities)
		}
		for _, set := range [...]*uint64{&s.Caps.Bounding, &s.Caps.Effective, &s.Caps.Inheritable, &s.Caps.Permitted, &s.Caps.Ambient} {
			c.num(set)
		}
	}
	c.bool(&s.NoNewPrivs)
	c.bytes(&s.Filter)
	c.int(&s.Notify)
	c.bytes(&s.NotifyState)
	c.str(&s.AppArmor)
	c.str(&s.SELinux)
	c.num(&s.Personality)
	c.bool(&s.Persona)
}

func (s *Schedule) visit(c *codec) {
	c.bool(&s.Set)
	c.bool(&s.IOSet)
	nice := uint64(s.Nice)
	for _, n := range [...]*uint64{&s.Policy, &s.Flags, &s.Priority, &nice, &s.Runtime, &s.Deadline, &s.Period, &s.IOPrio} {
		c.num(n)
	}
	s.Nice = int64(nice)
}

func (c *codec) fail(what string) {
	if c.err == nil {
		c.err = fmt.Errorf("program at byte %d: %s: %w", c.pos, what, fs.ErrInvalid)
	}
}

func (c *codec) num(v *uint64) {
	if !c.read {
		c.buf = binary.AppendUvarint(c.buf, *v)
		return
	}
	if c.err != nil {
		return
	}
	x, n := binary.Uvarint(c.buf[c.pos:])
	if n <= 0 {
		c.fail("number")
		return
	}
	c.pos += n
	*v = x
}

// int carries small signed numbers; -1 is common.
func (c *codec) int(v *int) {
	x := uint64(*v + 1)
	c.num(&x)
	if x > 1<<31 {
		c.fail("number out of range")
		x = 0
	}
	*v = int(x) - 1
}

func (c *codec) u32(v *uint32) {
	x := uint64(*v)
	c.num(&x)
	if x > 1<<32-1 {
		c.fail("number out of range")
	}
	*v = uint32(x)
}

func (c *codec) bool(v *bool) {
	x := uint64(0)
	if *v {
		x = 1
	}
	c.num(&x)
	if x > 1 {
		c.fail("flag")
	}
	*v = x == 1
}

// count carries the length of a list whose elements take at least size bytes each, so that a short message can't ask
// for a large allocation.
func (c *codec) count(n, size int) int {
	x := uint64(n)
	c.num(&x)
	if c.read && (c.err != nil || x > uint64(len(c.buf)-c.pos)/uint64(size)) {
		c.fail("length")
		return 0
	}
	return int(x)
}

func (c *codec) bytes(v *[]byte) {
	n := c.count(len(*v), 1)
	if !c.read {
		c.buf = append(c.buf, *v...)
		return
	}
	*v = c.buf[c.pos : c.pos+n : c.pos+n]
	c.pos += n
}

func (c *codec) str(v *string) {
	b := []byte(nil)
	if !c.read {
		b = []byte(*v)
	}
	c.bytes(&b)
	*v = string(b)
}

func (c *codec) strs(v *[]string) {
	n := c.count(len(*v), 1)
	if c.read {
		*v = make([]string, n)
	}
	for i := range *v {
		c.str(&(*v)[i])
	}
}

func (c *codec) steps(v *[]Step) {
	n := c.count(len(*v), 7)
	if c.read {
		*v = make([]Step, n)
	}
	for i := range *v {
		(*v)[i].visit(c)
	}
}
