//go:build amd64

package quick

import "unsafe"

// Numbers of the kernel's interface to x86-64.
const (
	sysRead           = 0
	sysWrite          = 1
	sysClose          = 3
	sysRtSigaction    = 13
	sysRtSigprocmask  = 14
	sysNanosleep      = 35
	sysSocket         = 41
	sysConnect        = 42
	sysSendto         = 44
	sysSocketpair     = 53
	sysWait4          = 61
	sysKill           = 62
	sysGetcwd         = 79
	sysFchdir         = 81
	sysRename         = 82
	sysMkdir          = 83
	sysUnlink         = 87
	sysUmask          = 95
	sysGeteuid        = 107
	sysSetsid         = 112
	sysRtSigtimedwait = 128
	sysPrctl          = 157
	sysExitGroup      = 231
	sysKeyctl         = 250
	sysOpenat         = 257
	sysUnlinkat       = 263
	sysReadlinkat     = 267
	sysSetns          = 308
	sysSeccomp        = 317
	sysPidfdSignal    = 424
	sysOpenTree       = 428
	sysPidfdOpen      = 434
	sysOpenat2        = 437
	sysMountSetattr   = 442

	atCwd       = -100
	atRemove    = 0x200 // AT_REMOVEDIR
	atEmptyPath = 0x1000
	oWronly     = 0x1
	oCreate     = 0x40
	oTruncate   = 0x200
	oDirectory  = 0x10000
	oNofollow   = 0x20000
	oCloexec    = 0x80000
	oPath       = 0x200000

	enoent = 2
	eintr  = 4
	ebusy  = 16
	eexist = 17

	afUnix      = 1
	sockStream  = 1
	sockCloexec = 0x80000
	setDumpable = 4 // PR_SET_DUMPABLE
	wnohang     = 1

	mountReadonly = 0x1 // MOUNT_ATTR_RDONLY
	mountNoexec   = 0x8 // MOUNT_ATTR_NOEXEC

	newMount     = 0x00020000                                        // CLONE_NEWNS
	newPid       = 0x20000000                                        // CLONE_NEWPID
	spacesJoined = 0x02000000 | 0x04000000 | 0x08000000 | 0x40000000 // CLONE_NEWCGROUP, NEWUTS, NEWIPC, NEWNET
)

// args are the arguments of a command that can be done here.
type args struct {
	root, command, id string
	force             bool

	// of exec
	process, pidFile, cgroup string
	detach                   bool
	rest                     int // where the words after the id begin
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
		case "--systemd-cgroup": // matters to create only
			continue
		case "start", "delete", "exec":
			a.command = s
		default:
			return false
		}
		break
	}
	if !a.rooted(sp, argc) {
		return false
	}
	if a.command == "exec" {
		return a.flags(sp, argc, i+1)
	}
	return a.words(sp, argc, i+1) && a.command != "" && a.id != ""
}

// words reads the arguments of start and delete.
func (a *args) words(sp *uintptr, argc, i int) bool {
	for ; i < argc; i++ {
		switch s := arg(sp, i); {
		case a.command == "delete" && (s == "--force" || s == "-f"):
			a.force = true
		case a.id == "" && plain(s):
			a.id = s
		default:
			return false
		}
	}
	return true
}

// rooted is true when it is known where the state is.
func (a *args) rooted(sp *uintptr, argc int) bool {
	if a.root == "" && !variable(sp, argc, "XDG_RUNTIME_DIR=") { // without root that is where the state may be
		a.root = "/run/berth-oci"
	}
	return a.root != ""
}

// flags reads those of exec that can be done here, and the id.
func (a *args) flags(sp *uintptr, argc, i int) bool {
	for ; i < argc; i++ {
		s := arg(sp, i)
		value := ""
		switch s {
		case "--detach", "-d":
			a.detach = true
			continue
		case "--process", "-p", "--pid-file", "--cgroup":
			if i++; i == argc || arg(sp, i) == "" {
				return false
			}
			value = arg(sp, i)
		}
		switch s {
		case "--process", "-p":
			a.process = value
		case "--pid-file":
			a.pidFile = value
		case "--cgroup":
			a.cgroup = value
			for k := range len(value) { // "freezer:NAME": which hierarchies have directories is not asked for
				if value[k] == ':' {
					a.cgroup = value[k+1:]
					break
				}
			}
			if !plain(a.cgroup) || a.cgroup[0] == '.' {
				return false
			}
		default:
			a.id, a.rest = s, i+1
			return plain(s)
		}
	}
	return false
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
	return booted(r.boot) && r.pid > 0 && gone(r.pid)
}

// booted is true when this is the boot of that name.
func booted(boot string) bool {
	var n name
	var f file
	return n.add("/proc/sys/kernel/random/boot_id") && f.read(atCwd, &n) && f.size >= 36 && f.string()[:36] == boot
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
