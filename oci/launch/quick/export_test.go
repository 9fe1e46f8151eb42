package quick

import "github.com/berth-runtime/berth/oci/launch/program"

// Record is record for tests.
type Record struct {
	Pid                              int
	Boot, Dirs                       string
	Start, Delete, Exec              bool
	Bundle, Filter, Freezer, Unified string
}

// Parse is parse for tests.
func Parse(s string) (Record, bool) {
	r, ok := parse(s)
	return Record{r.pid, r.boot, r.dirs, r.start, r.delete, r.exec, r.bundle, r.filter, r.freezer, r.unified}, ok
}

// Described is what a document says.
type Described struct {
	Args, Env       []string
	Cwd             string
	UID, GID, Umask uint32
	Groups          []uint32
	Limits          []program.Rlimit
	Caps            program.Capabilities
	NoNewPrivs      bool
	Home            bool
	Score           *int
}

// Describe reads a process.json, or the process section of a config.json.
func Describe(text string, whole bool) (Described, bool) {
	d := document{reader: reader{s: text}, m: new(picture)}
	if ok := whole && d.config() || !whole && d.alone(); !ok {
		return Described{}, false
	}
	m := d.m
	out := Described{Args: m.all(m.args), Env: m.all(m.env), Cwd: m.str(m.cwd), UID: m.user.uid, GID: m.user.gid, Umask: m.user.umask,
		Groups: m.user.groups[:m.user.count], Limits: m.limits.list[:m.limits.count], Caps: m.caps, NoNewPrivs: m.noNewPrivs, Home: m.home}
	if d.scored {
		out.Score = &d.score
	}
	return out, true
}

func (m *picture) all(list span) []string {
	var out []string
	off := list.off
	for range list.n {
		var s string
		s, off = m.next(off)
		out = append(out, s)
	}
	return out
}

// HomeOf is homeOf for tests.
func HomeOf(text string, uid uint32) (string, bool) { return homeOf(text, uid) }
