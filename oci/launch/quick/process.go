package quick

import "github.com/berth-runtime/berth/oci/launch/program"

// maxID is what setresuid(2) does not take for "as it is".
const maxID = 1<<32 - 2

// document is the process of an exec, read into a picture in the form of config.json's process section. What is rare, and what
// would be an error or a warning, is bad.
type document struct {
	reader
	m    *picture
	seen uint32 // members, by their number below

	score    int // oomScoreAdj
	scored   bool
	terminal bool
}

// alone reads a text that is no more than the section.
func (d *document) alone() bool {
	return d.process() && !d.terminal && d.peek() == 0 && d.i == len(d.s)
}

// config reads the process section of a config.json.
func (d *document) config() bool {
	found := false
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		if k := d.key(); k == "process" && !found {
			found = true
			d.process()
		} else if fold(k, "process") { // package encoding/json would take it too
			d.bad = true
		} else {
			d.skip()
		}
	}
	return found && !d.bad
}

// fold compares without case.
func fold(a, b string) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range len(a) {
		if a[i]|0x20 != b[i] {
			return false
		}
	}
	return true
}

// once is false for the second member of a name.
func (d *document) once(n int) {
	d.bad = d.bad || d.seen&(1<<n) != 0
	d.seen |= 1 << n
}

// process reads the section.
func (d *document) process() bool {
	m := d.m
	m.user.umask = 0o022
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		switch d.key() {
		case "terminal":
			d.once(0)
			d.terminal = d.flag()
		case "consoleSize":
			d.once(1)
			d.size()
		case "user":
			d.once(2)
			d.user()
		case "args":
			d.once(3)
			m.args = d.strings()
		case "env":
			d.once(4)
			m.env = d.strings()
		case "cwd":
			d.once(5)
			m.cwd = d.text(m)
		case "capabilities":
			d.once(6)
			d.capabilities()
		case "rlimits":
			d.once(7)
			d.limits()
		case "noNewPrivileges":
			d.once(8)
			m.noNewPrivs = d.flag()
		case "oomScoreAdj":
			d.once(9)
			d.score, d.scored = d.signed(1000), true
		default:
			d.bad = true
		}
	}
	return d.check()
}

func (d *document) check() bool {
	m := d.m
	if d.bad || m.cwd.n == 0 || m.str(m.cwd)[0] != '/' || m.args.n == 0 {
		return false
	}
	first, _ := m.next(m.args.off)
	_, ok := m.variable("HOME")
	m.home = !ok
	return first != ""
}

// strings reads a list of strings.
func (d *document) strings() span {
	list := span{off: d.m.used}
	d.take('[')
	for n := 0; d.more(&n, ']'); {
		d.text(d.m)
		list.n++
	}
	return list
}

// size is that of a terminal, which there is none of here; it must be one all the same.
func (d *document) size() {
	seen := d.seen
	d.seen = 0
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		switch d.key() {
		case "height":
			d.once(0)
		case "width":
			d.once(1)
		default:
			d.bad = true
		}
		d.number(maxID)
	}
	d.seen = seen
}

func (d *document) user() {
	m, seen := d.m, d.seen
	d.seen = 0
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		switch d.key() {
		case "uid":
			d.once(0)
			m.user.uid = uint32(d.number(maxID))
		case "gid":
			d.once(1)
			m.user.gid = uint32(d.number(maxID))
		case "umask":
			d.once(2)
			m.user.umask = uint32(d.number(maxID)) & 0o777
		case "additionalGids":
			d.once(3)
			d.groups()
		default:
			d.bad = true
		}
	}
	d.seen = seen
}

func (d *document) groups() {
	m := d.m
	d.take('[')
	for n := 0; d.more(&n, ']'); {
		if m.user.count == maxGroups {
			d.bad = true
			return
		}
		m.user.groups[m.user.count] = uint32(d.number(maxID))
		m.user.count++
	}
}

func (d *document) limits() {
	m := d.m
	d.take('[')
	for n := 0; d.more(&n, ']'); {
		if m.limits.count == maxLimits {
			d.bad = true
			return
		}
		m.limits.list[m.limits.count] = d.limit()
		m.limits.count++
	}
}

func (d *document) limit() program.Rlimit {
	l := program.Rlimit{Resource: maxLimits}
	seen := d.seen
	d.seen = 0
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		switch d.key() {
		case "type":
			d.once(0)
			l.Resource = uint64(program.Resource(d.raw()))
		case "soft":
			d.once(1)
			l.Soft = d.number(1<<64 - 1)
		case "hard":
			d.once(2)
			l.Hard = d.number(1<<64 - 1)
		default:
			d.bad = true
		}
	}
	d.seen = seen
	if l.Resource >= maxLimits || l.Soft > l.Hard {
		d.bad = true
	}
	for i := range d.m.limits.count {
		d.bad = d.bad || d.m.limits.list[i].Resource == l.Resource
	}
	return l
}

func (d *document) capabilities() {
	c, seen := &d.m.caps, d.seen
	d.seen = 0
	d.take('{')
	for n := 0; d.more(&n, '}'); {
		switch d.key() {
		case "bounding":
			d.once(0)
			c.Bounding = d.set()
		case "effective":
			d.once(1)
			c.Effective = d.set()
		case "inheritable":
			d.once(2)
			c.Inheritable = d.set()
		case "permitted":
			d.once(3)
			c.Permitted = d.set()
		case "ambient":
			d.once(4)
			c.Ambient = d.set()
		default:
			d.bad = true
		}
	}
	d.seen = seen
	// what would be left out of a set is left out with a warning
	if c.Effective&^c.Permitted|c.Ambient&^c.Permitted|c.Ambient&^c.Inheritable|c.Inheritable&^c.Bounding != 0 {
		d.bad = true
	}
}

func (d *document) set() uint64 {
	mask := uint64(0)
	d.take('[')
	for n := 0; d.more(&n, ']'); {
		c := program.Capability(d.raw())
		if c < 0 {
			d.bad = true
			return 0
		}
		mask |= 1 << c
	}
	return mask
}
