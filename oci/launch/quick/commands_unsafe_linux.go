//go:build amd64

package quick

import "unsafe"

// Numbers of the kernel's interface to x86-64.
const (
	sysRead      = 0
	sysWrite     = 1
	sysClose     = 3
	sysNanosleep = 35
	sysSocket    = 41
	sysConnect   = 42
	sysExitGroup = 231
	sysOpenat    = 257
	sysUnlinkat  = 263

	atCwd      = -100
	atRemove   = 0x200 // AT_REMOVEDIR
	oDirectory = 0x10000
	oNofollow  = 0x20000
	oCloexec   = 0x80000

	enoent = 2
	eintr  = 4
	ebusy  = 16

	afUnix      = 1
	sockStream  = 1
	sockCloexec = 0x80000
)

// args are the arguments of a command that can be done here.
type args struct {
	root, command, id string
	force             bool
}

// parse reads the arguments; false when there is one it does not know.
func (a *args) parse(sp *uintptr, argc int) bool {
	i := 1
	for ; i+1 < argc; i++ {
		switch s := arg(sp, i); s {
		case "--root":
			i++
			a.root = arg(sp, i)
			continue
		case "--log", "--log-format": // nothing is logged where nothing goes wrong
			i++
			continue
		case "start", "delete":
			a.command = s
		default:
			return false
		}
		break
	}
	for i++; i < argc; i++ {
		switch s := arg(sp, i); {
		case a.command == "delete" && (s == "--force" || s == "-f"):
			a.force = true
		case a.id == "" && plain(s):
			a.id = s
		default:
			return false
		}
	}
	if a.root == "" && !variable(sp, argc, "XDG_RUNTIME_DIR=") { // without root that is where the state may be
		a.root = "/run/berth-oci"
	}
	return a.command != "" && a.id != "" && a.root != ""
}

// plain is true for what package state takes for an id, and no flag.
func plain(s string) bool {
	if s == "" || s[0] == '.' || s[0] == '-' || len(s) > 255 {
		return false
	}
	for i := 0; i < len(s); i++ {
		if !alphanumeric(s[i]) && !has("_+-.", s[i:i+1]) {
			return false
		}
	}
	return true
}

func alphanumeric(c byte) bool {
	return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
}

// open opens the container's directory and reads its record.
func (a *args) open(f *file) int {
	var n name
	if !n.add(a.root) || !n.add("/") || !n.add(a.id) {
		return -1
	}
	dir := n.open(atCwd, oDirectory|oNofollow)
	if dir < 0 {
		return -1
	}
	n.cut(0)
	if !n.add("state.json") || !f.read(dir, &n) {
		return -1
	}
	return dir
}

// start sends the one byte that the init waits for, and waits until its end of the connection is closed by the exec.
func (a *args) start() bool {
	var f file
	dir := a.open(&f)
	if dir < 0 {
		return false
	}
	if r, ok := parse(f.string()); !ok || !r.start {
		return false
	}
	fd := call(sysSocket, afUnix, sockStream|sockCloexec, 0)
	if fd < 0 || !connect(fd, dir) {
		return false
	}
	one := byte(1)
	if call(sysWrite, uintptr(fd), uintptr(unsafe.Pointer(&one)), 1) != 1 {
		return false
	}
	said := answer()
	for said.size < len(said.text) {
		n := call(sysRead, uintptr(fd), uintptr(unsafe.Pointer(&said.text))+uintptr(said.size), uintptr(len(said.text)-said.size))
		if n == -eintr {
			continue
		}
		if n <= 0 {
			break
		}
		said.size += n
	}
	return said.size == 0
}

// address is struct sockaddr_un.
type address struct {
	family uint16
	path   [108]byte
}

// connect goes by descriptor, since names in deep directories are too long.
func connect(fd, dir int) bool {
	var n name
	if !n.add("/proc/self/fd/") || !n.number(dir) || !n.add("/start.sock") || n.size >= 107 {
		return false
	}
	to := address{family: afUnix}
	copy(to.path[:], n.text[:n.size])
	return call(sysConnect, uintptr(fd), uintptr(unsafe.Pointer(&to)), uintptr(3+n.size)) == 0
}

// delete removes a container whose process has ended and whose cgroups are empty.
func (a *args) delete() bool {
	var f file
	dir := a.open(&f)
	if dir < 0 {
		return false
	}
	r, ok := parse(f.string())
	if !ok || !r.delete || !ended(&r) {
		return false
	}
	if !removeGroups(r.dirs) {
		return false
	}
	return a.removeDir(dir)
}

// ended is true when the process of the record is there no more, or is a zombie.
func ended(r *record) bool {
	var n name
	var f file
	if !n.add("/proc/sys/kernel/random/boot_id") || !f.read(atCwd, &n) || f.size < 36 || f.string()[:36] != r.boot {
		return false
	}
	return r.pid > 0 && gone(r.pid)
}

func gone(pid int) bool {
	var n name
	var f file
	if !n.add("/proc/") || !n.number(pid) || !n.add("/stat") {
		return false
	}
	if fd := n.open(atCwd, 0); fd == -enoent {
		return true
	} else if fd >= 0 {
		call(sysClose, uintptr(fd), 0, 0)
	}
	if !f.read(atCwd, &n) {
		return false
	}
	s := f.string()
	i := len(s) - 1
	for i >= 0 && s[i] != ')' {
		i--
	}
	return i >= 0 && i+2 < len(s) && s[i+1] == ' ' && s[i+2] == 'Z'
}

// removeGroups removes the directories in a list of JSON strings, the last first. One that is not empty is refused by
// the kernel.
func removeGroups(list string) bool {
	for len(list) > 0 {
		end := len(list) - 1
		for end >= 0 && list[end] != '"' {
			end--
		}
		begin := end - 1
		for begin >= 0 && list[begin] != '"' {
			begin--
		}
		if begin < 0 {
			return true
		}
		var n name
		if !n.add(list[begin+1 : end]) {
			return false
		}
		if !n.remove() {
			return false
		}
		list = list[:begin]
	}
	return true
}

// remove removes a cgroup's directory. A process that has ended leaves it a moment later, so one that is busy is tried
// again for two milliseconds, which is what the ordinary program would take to start.
func (n *name) remove() bool {
	for range 20 {
		e := int(syscall6(sysUnlinkat, ^uintptr(99), n.ptr(), atRemove, 0, 0, 0))
		if e == 0 || e == -enoent {
			return true
		}
		if e != -ebusy {
			return false
		}
		pause := [2]int64{0, 100_000} // struct timespec
		call(sysNanosleep, uintptr(unsafe.Pointer(&pause)), 0, 0)
	}
	return false
}

// removeDir removes the container's directory, whose record goes last: as long as it is there, so is what it tells of.
func (a *args) removeDir(dir int) bool {
	for i := range 2 {
		var n name
		if i == 0 && !n.add("start.sock") || i == 1 && !n.add("state.json") {
			return false
		}
		if e := call(sysUnlinkat, uintptr(dir), n.ptr(), 0); e != 0 && e != -enoent {
			return false
		}
	}
	var n name
	if !n.add(a.root) || !n.add("/") || !n.add(a.id) {
		return false
	}
	return int(syscall6(sysUnlinkat, ^uintptr(99), n.ptr(), atRemove, 0, 0, 0)) == 0
}
