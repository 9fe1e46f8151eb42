package inside

import (
	"fmt"
	"os"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/program"
)

// box is the container under construction.
type box struct {
	prog   *program.Program
	slots  []int // descriptors by slot, -1: not filled yet
	sync   int   // socket to the parent
	conn   int   // connection of `start`, once there is one
	root   tree  // the container's root directory
	proc   int   // a procfs nobody can reach by path, -1
	label  labels
	kernel []attached
	tty    bool
}

// Main receives a program over the socket sync and becomes the container's process. It returns an exit code only when
// that did not work; the reason has been told to the parent or to the caller of start by then.
func Main(sync int) int {
	runtime.LockOSThread()
	unix.Prctl(unix.PR_SET_DUMPABLE, 0, 0, 0, 0)
	unix.CloseOnExec(sync)
	prog, files, err := program.Receive(sync)
	if err != nil {
		program.Say(sync, program.Failure, fmt.Sprintf("receive program: %v", err))
		return 1
	}
	b := &box{prog: prog, sync: sync, conn: -1, root: unix.AT_FDCWD, proc: -1, label: labels{-1, -1}}
	b.slots = make([]int, prog.Slots)
	for i := range b.slots {
		b.slots[i] = -1
	}
	copy(b.slots, files)
	if err := b.setup(); err != nil {
		program.Say(sync, program.Failure, err.Error())
		return 1
	}
	if err := program.Say(sync, program.Ready, ""); err != nil {
		return 1 // the parent is gone; so shall this be
	}
	return b.become()
}

func (b *box) become() int {
	if b.prog.Listen >= 0 {
		unix.Close(b.sync)
		if err := b.wait(b.slots[b.prog.Listen]); err != nil {
			return 1
		}
	}
	err := b.finish()
	if b.conn >= 0 {
		unix.Write(b.conn, []byte(err.Error()))
	} else {
		program.Say(b.sync, program.Failure, err.Error())
	}
	return 127
}

// wait blocks until somebody connects and sends a byte. Connections that end without one are probes.
func (b *box) wait(listen int) error {
	for {
		conn, _, err := unix.Accept4(listen, unix.SOCK_CLOEXEC)
		if err == unix.EINTR || err == unix.ECONNABORTED {
			continue
		}
		if err != nil {
			return err
		}
		var one [1]byte
		n, err := unix.Read(conn, one[:])
		for err == unix.EINTR {
			n, err = unix.Read(conn, one[:])
		}
		if n == 1 {
			b.conn = conn
			// Now, not at the exec: that closes in the order of the numbers, and between conn and this socket the
			// container would still look created to whoever start has returned to.
			return unix.Close(listen)
		}
		unix.Close(conn)
	}
}

func (b *box) setup() error {
	unix.Umask(0)
	if _, err := unix.Setsid(); err != nil && err != unix.EPERM {
		return fmt.Errorf("setsid: %w", err)
	}
	if err := b.label.open(&b.prog.Process.Security, b.procfs); err != nil {
		return err
	}
	if err := b.run(b.prog.Setup); err != nil {
		return err
	}
	b.warn(rlimitWarnings(b.prog.Process.Rlimits)...)
	b.warn(grantable(b.prog.Process.Security.Caps)...)
	return home(b, &b.prog.Process)
}

// run does the steps; each error carries the step's name and the path or name it worked on.
func (b *box) run(steps []program.Step) error {
	for i := range steps {
		s := &steps[i]
		if err := b.step(s); err != nil {
			return fmt.Errorf("%s %s: %w", stepNames[s.Op], subject(s), err)
		}
	}
	return nil
}

func subject(s *program.Step) string {
	if s.Path != "" {
		return s.Path
	}
	return s.Data
}

// stepNames is a table; it is never written.
var stepNames = [...]string{
	program.OpKeyring: "keyring", program.OpHostname: "hostname", program.OpDomainname: "domainname",
	program.OpLoopback: "loopback", program.OpPropagation: "propagation", program.OpFilesystem: "file system",
	program.OpRoot: "attach root", program.OpPivot: "pivot root", program.OpHooks: "hooks", program.OpRun: "hook",
	program.OpMount: "mount", program.OpBind: "bind", program.OpAttr: "mount attributes", program.OpShare: "propagation of",
	program.OpCopyUp: "copy up", program.OpDevice: "device", program.OpSymlink: "symlink", program.OpMask: "mask",
	program.OpReadonly: "make read-only", program.OpSysctl: "sysctl", program.OpConsole: "console",
	program.OpTree: "clone root", program.OpChroot: "change root",
	program.OpMkdir: "make directory", program.OpSetns: "enter mount namespace", program.OpMemPolicy: "linux.memoryPolicy",
}

func (b *box) step(s *program.Step) error {
	switch s.Op {
	case program.OpKeyring, program.OpHostname, program.OpDomainname, program.OpLoopback, program.OpSetns,
		program.OpMemPolicy, program.OpSysctl:
		return b.stepNamespace(s)
	case program.OpPropagation, program.OpFilesystem, program.OpRoot, program.OpPivot, program.OpMount, program.OpBind,
		program.OpAttr, program.OpShare, program.OpCopyUp, program.OpTree, program.OpChroot:
		return b.stepMount(s)
	case program.OpDevice, program.OpSymlink, program.OpMask, program.OpReadonly, program.OpConsole, program.OpMkdir:
		return b.stepNode(s)
	case program.OpHooks:
		return b.askHooks(s.Data)
	case program.OpRun:
		return hook.FromStep(s).Run([]byte(s.Data))
	}
	return unix.ENOSYS
}

func (b *box) stepNamespace(s *program.Step) error {
	switch s.Op {
	case program.OpKeyring:
		return b.keyring(s.Path)
	case program.OpHostname:
		return unix.Sethostname([]byte(s.Data))
	case program.OpDomainname:
		return unix.Setdomainname([]byte(s.Data))
	case program.OpLoopback:
		return loopback()
	case program.OpSysctl:
		proc, err := b.procfs()
		if err != nil {
			return err
		}
		return sysctl(proc, s.Path, s.Data)
	case program.OpSetns:
		return b.enterMounts(b.slots[s.Slot])
	case program.OpMemPolicy:
		return memPolicy(int(s.Num), s.Flags, s.Data)
	}
	return unix.ENOSYS
}

// askHooks has the parent run hooks in the runtime's namespaces and waits for its word.
func (b *box) askHooks(name string) error {
	if err := program.Say(b.sync, program.Hooks, name); err != nil {
		return err
	}
	var one [1]byte
	n, err := unix.Read(b.sync, one[:])
	if n == 1 {
		return nil
	}
	if err == nil {
		err = unix.EPIPE
	}
	return err
}

// keyring gives the container a session keyring of its own, so that it does not see the caller's keys. Kernels without
// keys and filters that forbid them are no reason to stop.
func (b *box) keyring(name string) error {
	_, err := unix.KeyctlJoinSessionKeyring(name)
	if err == unix.ENOSYS || err == unix.EPERM || err == unix.EDQUOT {
		b.warn("keyring " + name + ": " + err.Error())
		return nil
	}
	return err
}

func (b *box) warn(texts ...string) {
	for _, t := range texts {
		program.Say(b.sync, program.Warning, t)
	}
}

func loopback() error {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	req, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	if err := unix.IoctlIfreq(fd, unix.SIOCGIFFLAGS, req); err != nil {
		return err
	}
	req.SetUint16(req.Uint16() | unix.IFF_UP)
	return unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, req)
}

// enterMounts moves this thread into a mount namespace; its cwd and root become that namespace's root (setns(2)).
// The other threads keep the old ones and are never used for paths.
func (b *box) enterMounts(fd int) error {
	if lacksHome(&b.prog.Process) {
		b.procfs() // while the mount namespace is one where a new one may be made; regular says when there is none
	}
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return err
	}
	if err := unix.Setns(fd, unix.CLONE_NEWNS); err != nil {
		return err
	}
	root, err := unix.Open("/", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	b.root = tree(root)
	return err
}

// sysctl writes one kernel parameter through the detached procfs.
func sysctl(proc int, name, value string) error {
	if strings.Contains(name, "..") {
		return unix.EINVAL
	}
	fd, err := unix.Openat2(proc, "sys/"+name, &unix.OpenHow{
		Flags: unix.O_WRONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_XDEV})
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	_, err = unix.Write(fd, []byte(value))
	return err
}

// procfs returns a procfs of this PID namespace that is attached nowhere, made at the first call. In a user namespace
// that does not own the PID namespace none can be made: there the host's is used, which is only reachable, and only
// trusted, before the pivot.
func (b *box) procfs() (int, error) {
	if b.proc >= 0 {
		return b.proc, nil
	}
	fd, err := newFilesystem("proc", nil, 0)
	if err != nil {
		fd, err = unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	}
	if err != nil {
		return -1, err
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil || st.Type != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, fmt.Errorf("procfs: not a procfs: %w", os.ErrInvalid)
	}
	b.proc = fd
	return fd, nil
}
