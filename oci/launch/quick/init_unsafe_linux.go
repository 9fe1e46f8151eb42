//go:build amd64

package quick

import (
	"unsafe"

	"github.com/berth-runtime/berth/oci/launch/become"
)

// homeSize bounds what comes into the environment as HOME.
const homeSize = 4096

// openHow is struct open_how of openat2(2).
type openHow struct{ flags, mode, resolve uint64 }

// inRoot resolves as package inside does: beneath the root, never through magic links.
func inRoot(root int, n *name) int {
	how := openHow{flags: oPath | oCloexec, resolve: 0x10 | 0x02} // RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS
	return int(syscall6(sysOpenat2, uintptr(root), n.ptr(), uintptr(unsafe.Pointer(&how)), unsafe.Sizeof(how), 0, 0))
}

// initiate is the init of an exec. It has been born in all namespaces of the container but mount, and in its cgroups. When a
// step does not work it ends, and who has started it begins anew with the ordinary program, which finds words for it.
func initiate(sock int) {
	call(sysPrctl, setDumpable, 0, 0)
	m := memory()
	if m.receive(sock) {
		m.become(sock)
	}
	leave(127)
}

func (m *picture) become(sock int) {
	for s := 1; s <= 64; s++ {
		if s > 2 || !m.detach { // as the Go runtime does: what nohup(1) ignores stays so
			defaultAction(s)
		}
	}
	unblock(m.mask)
	call(sysSetsid, 0, 0, 0)
	const joinSession = 1 // KEYCTL_JOIN_SESSION_KEYRING
	if call(sysKeyctl, joinSession, m.at(m.keyring.off), 0) < 0 {
		return
	}
	files := -1
	if m.home {
		if files = ownFiles(); files < 0 {
			return
		}
	}
	if call(sysSetns, uintptr(m.pidfd), newMount, 0) != 0 {
		return
	}
	var n name
	n.add("/")
	root := n.open(atCwd, oPath|oDirectory)
	var home uintptr
	if m.home {
		if home = m.findHome(root, files); home == 0 {
			return
		}
	}
	call(sysUmask, uintptr(m.user.umask), 0, 0)
	become.OwnNull()
	become.OwnStreams(m.user.uid, false)
	if root < 0 || become.CloseFrom(3) != 0 || !m.chdir(root) {
		return
	}
	if m.confine() {
		m.execute(sock, home)
	}
}

// chdir enters the working directory; one that is missing is the ordinary program's to make.
func (m *picture) chdir(root int) bool {
	var n name
	if !n.add(m.str(m.cwd)) {
		return false
	}
	fd := inRoot(root, &n)
	if fd < 0 || call(sysFchdir, uintptr(fd), 0, 0) != 0 {
		return false
	}
	call(sysClose, uintptr(fd), 0, 0)
	// from where the process now is
	return call(sysGetcwd, n.ptr(), uintptr(len(n.text)), 0) > 0 && n.text[0] == '/'
}

// confine does what package inside's finish does, in its order, of what a picture may ask for.
func (m *picture) confine() bool {
	c := &m.caps
	return become.Limits(m.limits.list[:m.limits.count]).Errno == 0 &&
		(m.noNewPrivs || m.load()) &&
		become.Bounding(c).Errno == 0 &&
		become.User(m.user.uid, m.user.gid, m.user.groups[:m.user.count], true).Errno == 0 &&
		become.Capabilities(c).Errno == 0 &&
		(!m.noNewPrivs || become.NoNewPrivs() == 0)
}

// load puts the process under the filter, if there is one.
func (m *picture) load() bool {
	if m.filter.n == 0 {
		return true
	}
	fprog := struct { // struct sock_fprog
		n    uint16
		code uintptr
	}{uint16(m.filter.n), m.at(m.filter.off)}
	const setFilter = 1 // SECCOMP_SET_MODE_FILTER
	return call(sysSeccomp, setFilter, uintptr(m.filterFlags), uintptr(unsafe.Pointer(&fprog))) == 0
}

// execute executes the program. A filter that needs no privilege comes last, so that it need not allow what is done before.
func (m *picture) execute(sock int, home uintptr) {
	argv := m.vector(m.args, 0)
	envv := m.vector(m.env, home)
	name, _ := m.next(m.args.off)
	path, _ := m.variable("PATH")
	ready := byte('R')
	if call(sysWrite, uintptr(sock), uintptr(unsafe.Pointer(&ready)), 1) != 1 || m.noNewPrivs && !m.load() {
		m.complain(sock)
		return
	}
	become.Execute(name, path, argv, envv)
	m.complain(sock)
}

// complain takes the first byte back.
func (m *picture) complain(sock int) {
	no := byte('E')
	call(sysWrite, uintptr(sock), uintptr(unsafe.Pointer(&no)), 1)
}

// ownFiles opens the directory of this thread's descriptors, of the host's procfs, which no container can change.
func ownFiles() int {
	var n name
	n.add("/proc/thread-self/fd")
	fd := n.open(atCwd, oPath|oDirectory)
	if fd >= 0 && become.FileSystem(fd) != become.ProcMagic {
		return -1
	}
	return fd
}

// findHome finds the user's home directory in the container's /etc/passwd and returns an entry for the environment; 0 for what is
// unusual. The file is opened for reading only when it is known to be a regular one (package inside, regular).
func (m *picture) findHome(root, files int) uintptr {
	var n name
	n.add("/etc/passwd")
	text := large()
	switch fd := inRoot(root, &n); {
	case fd == -enoent:
	case fd < 0 || !become.Plain(fd):
		return 0
	default:
		n.cut(0)
		n.number(fd)
		const nonblock = 0x800
		in := n.open(files, nonblock)
		call(sysClose, uintptr(fd), 0, 0)
		if in < 0 || !text.read(in) {
			return 0
		}
	}
	call(sysClose, uintptr(files), 0, 0)
	dir, ok := homeOf(text.string(), m.user.uid)
	if !ok || len(dir)+6 > homeSize {
		return 0
	}
	// The heap has room for it (vectors).
	at := m.used
	for _, s := range [...]string{"HOME=", dir, "\x00"} {
		m.used += uint32(copy(m.heap[m.used:], s))
	}
	return m.at(at)
}
