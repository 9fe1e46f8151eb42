package become

import (
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// Trouble is a step that did not work; the zero value is none.
type Trouble struct {
	What   string // what of the step; "": the step has only one
	Number int    // of it, where What ends with a blank
	Errno  syscall.Errno
}

func call(nr, a, b, c, d uintptr) (uintptr, syscall.Errno) {
	r, _, errno := syscall.RawSyscall6(nr, a, b, c, d, 0, 0)
	return r, errno
}

func prctl(option, value, third uintptr) syscall.Errno {
	_, e := call(unix.SYS_PRCTL, option, value, third, 0)
	return e
}

func fstat(fd int, st *unix.Stat_t) bool {
	_, e := call(unix.SYS_FSTAT, uintptr(fd), uintptr(unsafe.Pointer(st)), 0, 0)
	return e == 0
}

// isNull tells a null device.
func isNull(st *unix.Stat_t) bool {
	return st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3)
}

// CSignals gives the two signals of C libraries, 32 and 33, their default action. The Go runtime leaves them as it finds them, and
// whoever was started by glibc's posix_spawn(3) finds the first ignored.
func CSignals() {
	for signal := uintptr(32); signal <= 33; signal++ {
		var action [4]uint64 // struct sigaction of the kernel
		call(unix.SYS_RT_SIGACTION, signal, uintptr(unsafe.Pointer(&action)), 0, 8)
	}
}

// OwnNull replaces a standard stream that is the host's null device by the container's: a descriptor into the host's /dev is
// a way out of the container, and one that a checkpoint could not write down. Without such a device it stays.
func OwnNull() {
	const here = -100 // AT_FDCWD
	at := here
	name := [...]byte{'/', 'd', 'e', 'v', '/', 'n', 'u', 'l', 'l', 0}
	for fd := range 3 {
		var st unix.Stat_t
		if !fstat(fd, &st) || !isNull(&st) {
			continue
		}
		own, e := call(unix.SYS_OPENAT, uintptr(at), uintptr(unsafe.Pointer(&name)), unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if e != 0 {
			return
		}
		if fstat(int(own), &st) && isNull(&st) {
			call(unix.SYS_DUP3, own, uintptr(fd), 0, 0)
		}
		call(unix.SYS_CLOSE, own, 0, 0, 0)
	}
}

// OwnStreams gives the standard streams to the container's user, who may want to open /dev/stdout again. Terminals of
// somebody else and the null device stay as they are; what can't be changed is left alone.
func OwnStreams(uid uint32, tty bool) {
	for fd := range 3 {
		var st unix.Stat_t
		if !fstat(fd, &st) || st.Uid == uid {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && (!tty || isNull(&st)) {
			continue
		}
		call(unix.SYS_FCHOWN, uintptr(fd), uintptr(uid), ^uintptr(0), 0)
	}
}

// CloseFrom has all descriptors from one on closed by the exec.
func CloseFrom(first uint) syscall.Errno {
	_, e := call(unix.SYS_CLOSE_RANGE, uintptr(first), uintptr(^uint32(0)), unix.CLOSE_RANGE_CLOEXEC, 0)
	return e
}

// Prlimit is the raw call: the library's remembers RLIMIT_NOFILE and would put its own value back.
func Prlimit(resource uint64, set, old *unix.Rlimit) syscall.Errno {
	_, e := call(unix.SYS_PRLIMIT64, 0, uintptr(resource), uintptr(unsafe.Pointer(set)), uintptr(unsafe.Pointer(old)))
	return e
}

// Limits sets the limits. Raising a hard limit needs CAP_SYS_RESOURCE; without it what is there bounds what is set.
func Limits(limits []program.Rlimit) Trouble {
	for i := range limits {
		l := &limits[i]
		want := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		e := Prlimit(l.Resource, &want, nil)
		if e == unix.EPERM {
			var have unix.Rlimit
			if e := Prlimit(l.Resource, nil, &have); e != 0 {
				return Trouble{Errno: e}
			}
			want.Max, want.Cur = min(want.Max, have.Max), min(want.Cur, have.Max)
			e = Prlimit(l.Resource, &want, nil)
		}
		if e != 0 {
			return Trouble{"resource ", int(l.Resource), e}
		}
	}
	return Trouble{}
}

// Granted are the capabilities this thread has: in a container's user namespace all of them.
func Granted() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if _, e := call(unix.SYS_CAPGET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0, 0); e != 0 {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// Bounding leaves in the bounding set what c says.
func Bounding(c *program.Capabilities) Trouble {
	for i := range 64 {
		if c.Bounding&(1<<i) != 0 {
			continue
		}
		e := prctl(unix.PR_CAPBSET_DROP, uintptr(i), 0)
		if e == unix.EINVAL {
			break // the kernel knows no more
		}
		if e != 0 {
			return Trouble{"drop ", i, e}
		}
	}
	return Trouble{}
}

// User becomes the user and keeps the permitted capabilities. Raw system calls: credentials belong to the thread, and the
// library's wrappers would change those of all threads.
func User(uid, gid uint32, groups []uint32, set bool) Trouble {
	if e := prctl(unix.PR_SET_KEEPCAPS, 1, 0); e != 0 {
		return Trouble{Errno: e}
	}
	if set {
		// A user namespace whose maps an unprivileged user has written has setgroups denied (user_namespaces(7)). The
		// groups of that user stay then, which nobody has asked to be others.
		_, e := call(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0, 0)
		if e != 0 && (len(groups) > 0 || e != unix.EPERM) {
			return Trouble{"setgroups", 0, e}
		}
	}
	if _, e := call(unix.SYS_SETRESGID, uintptr(gid), uintptr(gid), uintptr(gid), 0); e != 0 {
		return Trouble{"setgid ", int(gid), e}
	}
	if _, e := call(unix.SYS_SETRESUID, uintptr(uid), uintptr(uid), uintptr(uid), 0); e != 0 {
		return Trouble{"setuid ", int(uid), e}
	}
	return Trouble{Errno: prctl(unix.PR_SET_KEEPCAPS, 0, 0)}
}

// Capabilities sets the other four sets.
func Capabilities(c *program.Capabilities) Trouble {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{Effective: uint32(c.Effective >> shift), Permitted: uint32(c.Permitted >> shift),
			Inheritable: uint32(c.Inheritable >> shift)}
	}
	if _, e := call(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&hdr)), uintptr(unsafe.Pointer(&data)), 0, 0); e != 0 {
		return Trouble{Errno: e}
	}
	if e := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0); e != 0 {
		return Trouble{Errno: e}
	}
	for i := range 64 {
		if c.Ambient&(1<<i) == 0 {
			continue
		}
		if e := prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, uintptr(i)); e != 0 {
			return Trouble{"ambient ", i, e}
		}
	}
	return Trouble{}
}

// NoNewPrivs sets the flag of that name.
func NoNewPrivs() syscall.Errno { return prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0) }

// maxPath is PATH_MAX: longer names are none that the kernel would take.
const maxPath = 4096

// Execute replaces this program. Without a slash the name is looked for in the directories of path. argv and envv end with a
// nil. ENOENT of such a name says that no directory has it.
func Execute(name, path string, argv, envv **byte) syscall.Errno {
	var full [maxPath]byte
	for i := range len(name) {
		if name[i] == '/' {
			return execve(&full, "", name, argv, envv)
		}
	}
	found := unix.ENOENT
	for rest, more := path, true; more; {
		dir := rest
		more = false
		for i := range len(rest) {
			if rest[i] == ':' {
				dir, rest, more = rest[:i], rest[i+1:], true
				break
			}
		}
		if dir == "" {
			dir = "."
		}
		e := execve(&full, dir, name, argv, envv)
		if e != unix.ENOENT && e != unix.ENOTDIR && (e != unix.EACCES || found == unix.ENOENT) {
			found = e
		}
		if e != unix.ENOENT && e != unix.ENOTDIR && e != unix.EACCES {
			break
		}
	}
	return found
}

// execve executes dir/name, or name alone.
func execve(full *[maxPath]byte, dir, name string, argv, envv **byte) syscall.Errno {
	n := copy(full[:], dir)
	if dir != "" && n < maxPath {
		full[n] = '/'
		n++
	}
	if n+len(name) >= maxPath {
		return unix.ENAMETOOLONG
	}
	n += copy(full[n:], name)
	full[n] = 0
	_, e := call(unix.SYS_EXECVE, uintptr(unsafe.Pointer(full)), uintptr(unsafe.Pointer(argv)), uintptr(unsafe.Pointer(envv)), 0)
	return e
}

// Hard is the hard limit of a resource.
func Hard(resource uint64) (hard uint64, ok bool) {
	var l unix.Rlimit
	e := Prlimit(resource, nil, &l)
	return l.Max, e == 0
}

// ProcMagic is the number by which FileSystem tells a procfs.
const ProcMagic = unix.PROC_SUPER_MAGIC

// FileSystem is the kind of file system a descriptor is on; 0 when that can't be told.
func FileSystem(fd int) int64 {
	var st unix.Statfs_t
	if _, e := call(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(&st)), 0, 0); e != 0 {
		return 0
	}
	return int64(st.Type)
}

// ReadOnly tells a file that can't be written by way of the mount it was opened on.
func ReadOnly(fd int) bool {
	var st unix.Statfs_t
	_, e := call(unix.SYS_FSTATFS, uintptr(fd), uintptr(unsafe.Pointer(&st)), 0, 0)
	return e == 0 && st.Flags&unix.ST_RDONLY != 0
}

// Endless tells file systems whose regular files need not have an end, such as /proc/kmsg: the kernel's own.
func Endless(kind int64) bool {
	switch kind {
	case unix.PROC_SUPER_MAGIC, unix.SYSFS_MAGIC, unix.CGROUP_SUPER_MAGIC, unix.CGROUP2_SUPER_MAGIC, unix.TRACEFS_MAGIC, unix.DEBUGFS_MAGIC:
		return true
	}
	return false
}

// Plain tells a regular file that has an end.
func Plain(fd int) bool {
	var st unix.Stat_t
	return fstat(fd, &st) && st.Mode&unix.S_IFMT == unix.S_IFREG && !Endless(FileSystem(fd))
}

// OwnFile tells a regular file that is of a user's making and that nobody else may write.
func OwnFile(fd int, uid uint32) bool {
	var st unix.Stat_t
	return fstat(fd, &st) && st.Uid == uid && st.Mode&(unix.S_IFMT|0o022) == unix.S_IFREG
}
