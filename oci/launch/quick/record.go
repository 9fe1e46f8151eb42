package quick

// record is what matters here of package state's State.
type record struct {
	pid           int
	began         int    // field 22 of proc_pid_stat(5)
	boot, dirs    string // dirs: the elements of the list, as JSON
	start, delete bool   // it takes no more than is done here

	exec                     bool
	bundle                   string
	filter, freezer, unified string
}

// parse reads a record in the very form that package state writes: the fields in their order, nothing between them, no
// escapes in those that are used, the field early at last. Anything else is false. The record is returned by value: what is stored through a
// pointer escapes.
func parse(s string) (r record, ok bool) {
	p := scan{s: s}
	if !p.skipField(`{"id":`) || !p.skipField(`,"ociVersion":`) || !p.lit(`,"pid":`) {
		return r, false
	}
	r.pid = p.number()
	if !p.lit(`,"startTime":`) {
		return r, false
	}
	r.began = p.number()
	if !p.lit(`,"boot":`) {
		return r, false
	}
	if r.boot, ok = p.str(); !ok || !p.lit(`,"bundle":`) {
		return r, false
	}
	at := p.i
	whole := true
	if r.bundle, whole = p.str(); !whole {
		p.i = at
		if !p.skip() {
			return r, false
		}
	}
	if !p.skipField(`,"rootfs":`) || !p.skipField(`,"cgroup":`) {
		return r, false
	}
	if r.start, r.delete, r.dirs, ok = p.early(); !ok {
		return r, false
	}
	r.exec, r.filter, r.freezer, r.unified, ok = p.later()
	r.exec = r.exec && whole
	return r, ok && s[len(s)-1] == '}'
}

// later reads the rest of the field early, which is about exec.
func (p *scan) later() (exec bool, filter, freezer, unified string, ok bool) {
	if !p.lit(`,"exec":`) {
		return false, "", "", "", false
	}
	if exec, ok = p.flag(); !ok || !p.lit(`,"filter":`) {
		return false, "", "", "", false
	}
	if filter, ok = p.str(); !ok || !p.lit(`,"freezer":`) {
		return false, "", "", "", false
	}
	if freezer, ok = p.str(); !ok || !p.lit(`,"unified":`) {
		return false, "", "", "", false
	}
	unified, ok = p.str()
	return exec, filter, freezer, unified, ok && p.lit(`}`)
}

// early reads the field of that name.
func (p *scan) early() (start, remove bool, dirs string, ok bool) {
	if !p.lit(`,"early":{"start":`) {
		return false, false, "", false
	}
	if start, ok = p.flag(); !ok || !p.lit(`,"delete":`) {
		return false, false, "", false
	}
	if remove, ok = p.flag(); !ok || !p.lit(`,"dirs":[`) {
		return false, false, "", false
	}
	dirs, ok = p.list()
	return start, remove, dirs, ok
}

// list passes over the rest of a list of strings and returns its elements.
func (p *scan) list() (string, bool) {
	from := p.i
	for {
		if _, ok := p.str(); !ok {
			return "", false
		}
		if p.lit(`]`) {
			return p.s[from : p.i-1], true
		}
		if !p.lit(`,`) {
			return "", false
		}
	}
}

// scan walks over a text.
type scan struct {
	s string
	i int
}

func (p *scan) lit(want string) bool {
	if len(p.s)-p.i < len(want) || p.s[p.i:p.i+len(want)] != want {
		return false
	}
	p.i += len(want)
	return true
}

func (p *scan) flag() (value, ok bool) {
	if p.lit("true") {
		return true, true
	}
	return false, p.lit("false")
}

func (p *scan) number() int {
	n := 0
	for p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9' {
		if n < 1<<40 { // more is no pid
			n = n*10 + int(p.s[p.i]-'0')
		}
		p.i++
	}
	return n
}

// str reads a string without escapes.
func (p *scan) str() (string, bool) {
	from := p.i + 1
	if !p.skip() {
		return "", false
	}
	t := p.s[from : p.i-1]
	for i := 0; i < len(t); i++ {
		if t[i] == '\\' {
			return "", false
		}
	}
	return t, true
}

// skipField passes over a field whose value is a string.
func (p *scan) skipField(key string) bool { return p.lit(key) && p.skip() }

// skip passes over a string.
func (p *scan) skip() bool {
	if p.i >= len(p.s) || p.s[p.i] != '"' {
		return false
	}
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case '"':
			p.i++
			return true
		}
	}
	return false
}

func has(s, part string) bool {
	for i := 0; i+len(part) <= len(s); i++ {
		if s[i:i+len(part)] == part {
			return true
		}
	}
	return false
}
