//go:build amd64

package quick

import (
	"unsafe"

	"github.com/berth-runtime/berth/oci/launch/become"
	"github.com/berth-runtime/berth/oci/launch/seccomp"
	"github.com/berth-runtime/berth/oci/launch/spawn"
)

// maxDirs is more hierarchies of cgroups than there are.
const maxDirs = 24

// execution is an exec under way. A step that is false leaves it to the ordinary program, which begins anew: until the init
// has executed the program nothing is done that it would not do as well.
type execution struct {
	a       *args
	r       *record
	m       *picture
	doc     document
	pidfd   int
	own     bool // the container has a PID namespace of its own
	exe     int
	ours    int // ends of the socket
	theirs  int
	pidTemp int // file to write the pid to
	tree    int // cgroup2 directory
	tasks   [maxDirs]int
	n       int // of tasks
	blocked bool
}

// exec runs a process in a container and ends as `exec` does; it returns only where that is left to the ordinary program.
func (a *args) exec(sp *uintptr, argc int) bool {
	if call(sysGeteuid, 0, 0, 0) != 0 {
		return false
	}
	var f file
	dir := a.open(&f)
	if dir < 0 {
		return false
	}
	call(sysClose, uintptr(dir), 0, 0)
	r, ok := parse(f.string())
	if !ok || !r.exec {
		return false
	}
	x := execution{a: a, r: &r, m: memory(), pidfd: -1, exe: -1, ours: -1, theirs: -1, pidTemp: -1, tree: -1}
	x.doc.m = x.m
	pid := 0
	if x.check() && x.describe(sp, argc) && x.filter() && x.enter() && x.prepare() {
		pid = x.start()
	}
	if pid > 0 && !x.a.detach {
		attend(pid)
	}
	if pid == 0 {
		x.dropPidFile()
		if x.blocked {
			unblock(x.m.mask)
		}
	}
	x.close()
	return pid > 0
}

// check finds out whether the container is there, and of the kind that is done here.
func (x *execution) check() bool {
	if !booted(x.r.boot) || x.r.pid <= 0 {
		return false
	}
	if x.pidfd = call(sysPidfdOpen, uintptr(x.r.pid), 0, 0); x.pidfd < 0 || !x.lives() || x.frozen() {
		return false
	}
	x.own = !sameSpace(x.r.pid, "/ns/pid")
	// while the process can be signalled it has not been reaped, so all that was its own
	return sameSpace(x.r.pid, "/ns/user") && sameSpace(x.r.pid, "/ns/time") && call(sysPidfdSignal, uintptr(x.pidfd), 0, 0) == 0
}

// lives is true when the process is the one of the record.
func (x *execution) lives() bool {
	var n name
	var f file
	if !n.add("/proc/") || !n.number(x.r.pid) || !n.add("/stat") || !f.read(atCwd, &n) {
		return false
	}
	s := f.string()
	i := len(s) - 1
	for i >= 0 && s[i] != ')' {
		i--
	}
	if i < 0 || i+2 >= len(s) || s[i+2] == 'Z' || s[i+2] == 'X' {
		return false
	}
	i += 2
	for blanks := 0; blanks < 19 && i < len(s); i++ { // from field 3 to 22
		if s[i] == ' ' {
			blanks++
		}
	}
	p := scan{s: s, i: i}
	return p.number() == x.r.began && x.r.began > 0
}

// frozen is true as well where that can't be found out.
func (x *execution) frozen() bool {
	var n name
	var f file
	if x.r.freezer == "" {
		return true
	}
	if x.r.freezer == x.r.unified {
		return !n.add(x.r.freezer) || !n.add("/cgroup.events") || !f.read(atCwd, &n) || !has(f.string(), "frozen 0\n")
	}
	return !n.add(x.r.freezer) || !n.add("/freezer.state") || !f.read(atCwd, &n) || f.string() != "THAWED\n"
}

// sameSpace compares a namespace of a process with that of this one.
func sameSpace(pid int, kind string) bool {
	var a, b [64]byte
	var n name
	n.add("/proc/self")
	n.add(kind)
	one := int(syscall6(sysReadlinkat, ^uintptr(99), n.ptr(), uintptr(unsafe.Pointer(&a)), uintptr(len(a)), 0, 0))
	n.cut(0)
	n.add("/proc/")
	n.number(pid)
	n.add(kind)
	two := int(syscall6(sysReadlinkat, ^uintptr(99), n.ptr(), uintptr(unsafe.Pointer(&b)), uintptr(len(b)), 0, 0))
	return one == two && (one > 0 || one == -enoent) && a == b
}

// describe reads what to run.
func (x *execution) describe(sp *uintptr, argc int) bool {
	if x.a.process != "" {
		if !x.load(x.a.process, "") || !x.doc.alone() {
			return false
		}
	} else if !x.load(x.r.bundle, "/config.json") || !x.doc.config() || !x.words(sp, argc) {
		return false
	}
	m, ok := x.m, true
	m.keyring = span{off: m.used}
	for _, s := range [...]string{"_ses.", x.a.id} {
		for i := range len(s) {
			ok = ok && m.push(s[i])
		}
	}
	return ok && m.push(0) && m.vectors() <= spareSize && x.permitted()
}

// load reads a file that has to be parsed.
func (x *execution) load(dir, base string) bool {
	var n name
	if !n.add(dir) || !n.add(base) {
		return false
	}
	fd, text := n.open(atCwd, 0), large()
	if fd < 0 || !text.read(fd) {
		return false
	}
	x.doc.s = text.string()
	return true
}

// words takes the rest of the command line for the process's arguments.
func (x *execution) words(sp *uintptr, argc int) bool {
	x.m.args = span{x.m.used, uint32(argc - x.a.rest)}
	for i := x.a.rest; i < argc; i++ {
		if _, ok := x.m.put(arg(sp, i)); !ok {
			return false
		}
	}
	return x.a.rest < argc && arg(sp, x.a.rest) != "" && arg(sp, x.a.rest)[0] != '-'
}

// permitted is false where something has to be warned of: what the process can't be given because this one has not got it.
func (x *execution) permitted() bool {
	const sysResource = 24 // CAP_SYS_RESOURCE
	m, have := x.m, become.Granted()
	c := &m.caps
	if (c.Bounding|c.Effective|c.Permitted|c.Inheritable|c.Ambient)&^have != 0 {
		return false
	}
	for i := range m.limits.count {
		hard, ok := become.Hard(m.limits.list[i].Resource)
		if !ok || m.limits.list[i].Hard > hard && have&(1<<sysResource) == 0 {
			return false
		}
	}
	return true
}

// filter reads the container's compiled filter. What is not of the runtime's making is not taken.
func (x *execution) filter() bool {
	if x.r.filter == "" {
		return true
	}
	var n name
	b := large()
	if !n.add(x.r.filter) {
		return false
	}
	fd := n.open(atCwd, 0)
	if fd < 0 || !become.OwnFile(fd, 0) || !b.read(fd) {
		return false
	}
	_, code, sum, ok := seccomp.Unpack(b.bytes())
	if !ok || checksum(b.bytes()[:b.size-4]) != sum {
		return false
	}
	flags, code, ok := seccomp.Split(code)
	const listener = 8 // SECCOMP_FILTER_FLAG_NEW_LISTENER
	if !ok || flags&listener != 0 {
		return false
	}
	m := x.m
	m.align()
	m.filterFlags, m.filter = uint32(flags), span{m.used, uint32(len(code) / 8)}
	if len(code) > heapSize-int(m.used) {
		return false
	}
	m.used += uint32(copy(m.heap[m.used:], code))
	return true
}

// checksum is CRC-32C.
func checksum(b []byte) uint32 {
	var table [256]uint32
	for i := range table {
		c := uint32(i)
		for range 8 {
			c = c>>1 ^ (0x82f63b78 & -(c & 1))
		}
		table[i] = c
	}
	c := ^uint32(0)
	for _, v := range b {
		c = table[byte(c)^v] ^ c>>8
	}
	return ^c
}

// enter opens the cgroups that the process is to be born in, below the container's where a name is given.
func (x *execution) enter() bool {
	for list := x.r.dirs; list != ""; {
		var dir string
		if dir, list = element(list); dir == "" {
			return false
		}
		var n name
		if !n.add(dir) {
			return false
		}
		if x.a.cgroup != "" && (dir == x.r.freezer || dir == x.r.unified) {
			n.add("/")
			if !n.add(x.a.cgroup) {
				return false
			}
			if e := call(sysMkdir, n.ptr(), 0o755, 0); e != 0 && e != -eexist {
				return false
			}
		}
		if dir == x.r.unified {
			if x.tree = n.open(atCwd, oDirectory); x.tree < 0 {
				return false
			}
			continue
		}
		if x.n == maxDirs || !n.add("/tasks") {
			return false
		}
		if x.tasks[x.n] = n.open(atCwd, oWronly); x.tasks[x.n] < 0 {
			return false
		}
		x.n++
	}
	return true
}

// element takes the first of a list of JSON strings.
func element(list string) (first, rest string) {
	p := scan{s: list}
	first, ok := p.str()
	if !ok || p.i < len(list) && !p.lit(",") {
		return "", list
	}
	return first, list[p.i:]
}

// prepare makes the rest: a program that nobody can write to, a socket to the init with the picture in it, the file for the pid.
func (x *execution) prepare() bool {
	if x.exe = self(); x.exe < 0 {
		return false
	}
	var pair [2]int32
	if int(syscall6(sysSocketpair, afUnix, sockStream|sockCloexec, 0, uintptr(unsafe.Pointer(&pair)), 0, 0)) != 0 {
		return false
	}
	x.ours, x.theirs = int(pair[0]), int(pair[1])
	x.m.pidfd, x.m.detach = int32(x.pidfd), x.a.detach
	if x.a.pidFile != "" && !x.openPidFile() {
		return false
	}
	if x.doc.scored && !score(x.doc.score) {
		return false
	}
	// Signals that are to be passed on wait until there is whom to pass them to.
	x.m.mask, x.blocked = block(x.a.detach), true
	return x.m.send(x.ours)
}

// start executes the init and returns its pid when it has executed the program, else 0.
func (x *execution) start() int {
	var fd name
	if !fd.number(x.theirs) {
		return 0
	}
	init, word := [...]byte{'b', 'e', 'r', 't', 'h', '-', 'o', 'c', 'i', 0}, [...]byte{'b', 'e', 'c', 'o', 'm', 'e', 0}
	argv := [...]*byte{&init[0], &word[0], &fd.text[0], nil}
	var envv [1]*byte
	keep := [...]int{x.theirs, x.pidfd}
	join := [...]spawn.Join{{FD: x.pidfd, Kind: spacesJoined}}
	if x.own {
		join[0].Kind |= newPid
	}
	b := spawn.Bare{Exe: x.exe, Argv: &argv[0], Envv: &envv[0], Keep: keep[:], Tasks: x.tasks[:x.n], Cgroup: x.tree,
		Join: join[:], Fork: x.own}
	// The children share this memory, and some are among the container's processes (ptrace(2), "dumpable").
	call(sysPrctl, setDumpable, 0, 0)
	pid, ok := b.Start()
	call(sysClose, uintptr(x.theirs), 0, 0)
	x.theirs = -1
	if ok && !x.executed() {
		reap(pid)
		ok = false
	}
	if !ok {
		call(sysPrctl, setDumpable, 1, 0)
		return 0
	}
	if x.a.pidFile != "" && !x.writePidFile(pid) {
		call(sysKill, uintptr(pid), 9, 0)
		reap(pid)
		answer().say("pid file: can't be written")
		return 0
	}
	return pid
}

// executed waits until the init's end of the socket is closed: by the exec, if there has been one byte before, and no other.
func (x *execution) executed() bool {
	var said [4]byte
	size := 0
	for size < len(said) {
		n := call(sysRead, uintptr(x.ours), uintptr(unsafe.Pointer(&said))+uintptr(size), uintptr(len(said)-size))
		if n == -eintr {
			continue
		}
		if n <= 0 {
			break
		}
		size += n
	}
	return size == 1
}

// close gives all descriptors back.
func (x *execution) close() {
	for i := range x.n {
		call(sysClose, uintptr(x.tasks[i]), 0, 0)
	}
	for _, fd := range [...]int{x.pidfd, x.exe, x.ours, x.theirs, x.pidTemp, x.tree} {
		if fd >= 0 {
			call(sysClose, uintptr(fd), 0, 0)
		}
	}
}
