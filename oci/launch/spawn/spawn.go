// Package spawn starts a program in namespaces and cgroups that only a single-threaded process can enter.
//
// A Go process has several threads, so it can join neither a user nor (for itself) a PID namespace, and moving one of
// its threads into a cgroup leaves the rest behind. The way out is a plain clone whose child makes nothing but raw
// system calls until it executes the next program:
//
//	parent                              child
//	clone3 (CLONE_INTO_CGROUP) ──────>  "0" into each v1 tasks file
//	                                    setns: first what the host's user namespace owns, then user, then the rest
//	write id maps  <── maps? ─────────  unshare(user)
//	               ─── one byte ─────>  setresuid 0, unshare(mount, ipc, uts, net, cgroup, time)
//	write clocks   <── offsets? ──────  (of a new time namespace, which children alone are in)
//	                                    clone(CLONE_PARENT | NEWPID) where a PID or time namespace asks for it
//	report pipe: errors, pid  <───────  execveat of a descriptor; the pipe closes by itself
//
// Where no user or time namespace is concerned the children run in the parent's memory (vfork(2)): one thread of the
// parent stands still until the exec.
//
// Files: spawn_linux.go is the part that runs between clone and exec and may not allocate; this one is ordinary Go.
package spawn

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// Join is a namespace to enter: a descriptor of it (or a pidfd with several kinds) and the CLONE_NEW* of its kind.
type Join struct {
	FD   int
	Kind uintptr
}

// Request describes a process. All descriptors stay the caller's.
type Request struct {
	Exe     *os.File            // the program; executed as descriptor, never by path
	Argv    []string            // Argv[0] included
	Env     []string            // whole environment
	Keep    []int               // descriptors that survive the exec under their own numbers
	Tasks   []int               // v1: open tasks files
	Cgroup  *os.File            // v2: directory
	Join    []Join              // every kind but user, at most 64
	User    *os.File            // user namespace to join
	New     uintptr             // CLONE_NEW* of namespaces to make, CLONE_NEWUSER excepted
	Fork    bool                // a PID namespace was joined: only a child lives in it
	Maps    func(pid int) error // writes the id maps of a new user namespace
	NewUser bool                // make a user namespace; Maps is called
	Offsets func(pid int) error // sets the clocks of a new time namespace; nil: they stay
}

// Process is a started child. It is a child of the calling process, whoever of the two clones made it.
type Process struct {
	Pid    int // of the process that executes; 0 until Await when two clones are needed
	first  int
	report *os.File
	maps   *os.File
	req    *Request
}

const (
	stepCgroup = iota + 1
	stepJoin
	stepJoinUser
	stepNewUser
	stepMaps
	stepRoot
	stepUnshare
	stepClone
	stepPid
	stepExec
	stepOffsets
)

// stepNames is a table; it is never written.
var stepNames = [...]string{
	stepCgroup: "enter cgroup", stepJoin: "join namespace", stepJoinUser: "join user namespace",
	stepNewUser: "make user namespace", stepMaps: "wait for id maps", stepRoot: "become root of the user namespace",
	stepUnshare: "make namespaces", stepClone: "clone into PID namespace", stepPid: "pid", stepExec: "execute init",
	stepOffsets: "wait for time offsets",
}

// Start clones and returns at once; Await tells whether the child got as far as its exec.
func Start(r *Request) (*Process, error) {
	argv, err := pointers(r.Argv)
	if err != nil {
		return nil, err
	}
	envv, err := pointers(r.Env)
	if err != nil {
		return nil, err
	}
	if len(r.Join) > 64 {
		return nil, fmt.Errorf("join %d namespaces: %w", len(r.Join), fs.ErrInvalid)
	}
	var pipes [4]int
	if err := unix.Pipe2(pipes[0:2], unix.O_CLOEXEC); err != nil {
		return nil, fmt.Errorf("report pipe: %w", err)
	}
	if err := unix.Pipe2(pipes[2:4], unix.O_CLOEXEC); err != nil {
		unix.Close(pipes[0])
		unix.Close(pipes[1])
		return nil, fmt.Errorf("report pipe: %w", err)
	}
	w := newRaw(r, argv, envv)
	w.report, w.maps = pipes[1], pipes[2]
	syscall.ForkLock.Lock()
	pid, errno := fork(w)
	syscall.ForkLock.Unlock()
	unix.Close(pipes[1])
	unix.Close(pipes[2])
	p := &Process{first: pid, req: r, report: os.NewFile(uintptr(pipes[0]), "report"), maps: os.NewFile(uintptr(pipes[3]), "maps")}
	if errno != 0 {
		p.close()
		return nil, fmt.Errorf("clone: %w", errno)
	}
	if !r.twice() {
		p.Pid = pid
	}
	return p, nil
}

// Await writes the id maps when asked to and returns when the child has executed its program, or with the step that
// did not work. After an error no process is left.
func (p *Process) Await() error {
	defer p.close()
	failed := record{}
	for {
		var rec record
		n, err := p.report.Read(rec.bytes())
		if n == 0 || err != nil {
			break
		}
		switch {
		case rec.Errno == 0 && (rec.Step == stepMaps || rec.Step == stepOffsets):
			if err := p.assist(rec.Step); err != nil {
				p.Kill()
				return err
			}
		case rec.Step == stepPid:
			p.Pid = int(rec.Pid)
		default:
			failed = rec // a pid may follow
		}
	}
	if failed.Step != 0 {
		p.Kill()
		return p.explain(failed)
	}
	if p.Pid != p.first {
		wait(p.first)
	}
	if p.Pid == 0 {
		return errors.New("first child ended without a word (killed while joining namespaces)")
	}
	return nil
}

// Kill ends the child and reaps it. Idempotent.
func (p *Process) Kill() {
	for _, pid := range [...]int{p.Pid, p.first} {
		if pid > 0 {
			unix.Kill(pid, unix.SIGKILL)
			wait(pid)
		}
	}
	p.Pid, p.first = 0, 0
}

// assist does what the child waits for: only a process outside of its new namespaces can.
func (p *Process) assist(step int32) error {
	do := p.req.Maps
	if step == stepOffsets {
		do = p.req.Offsets
	}
	if err := do(p.first); err != nil {
		return err
	}
	_, err := p.maps.Write([]byte{1})
	return err
}

func (p *Process) explain(rec record) error {
	name := "step"
	if int(rec.Step) < len(stepNames) && rec.Step > 0 {
		name = stepNames[rec.Step]
	}
	if rec.Step == stepJoin && int(rec.Index) < len(p.req.Join) {
		name += " " + kindName(p.req.Join[rec.Index].Kind)
	}
	return fmt.Errorf("%s: %w", name, syscall.Errno(rec.Errno))
}

func (p *Process) close() {
	p.report.Close()
	p.maps.Close()
}

func wait(pid int) {
	for {
		if _, err := unix.Wait4(pid, nil, 0, nil); err != unix.EINTR {
			return
		}
	}
}

func (r *Request) unshareFlags() uintptr { return r.New &^ unix.CLONE_NEWPID }

// twice says whether the PID namespace can only be had by a second clone: it is joined, or it must belong to a user
// namespace entered after the first, or there is a new time namespace, which like it takes effect for children only.
func (r *Request) twice() bool {
	return r.Fork || r.New&unix.CLONE_NEWTIME != 0 || r.New&unix.CLONE_NEWPID != 0 && (r.User != nil || r.NewUser)
}

// shared says whether the children may run in the memory of this process, which then waits until the program is
// executed, instead of in a copy: page tables need not be copied, and pages not be faulted in again on both sides. Not
// where the kernel wants a memory of its own, which is so for user and time namespaces (unshare(2), setns(2)); there the
// maps have to be written meanwhile as well.
func (r *Request) shared() bool {
	kinds := r.New
	for _, j := range r.Join {
		kinds |= j.Kind
	}
	return r.User == nil && !r.NewUser && kinds&(unix.CLONE_NEWUSER|unix.CLONE_NEWTIME) == 0
}

func kindName(kind uintptr) string {
	switch kind {
	case unix.CLONE_NEWNET:
		return "network"
	case unix.CLONE_NEWIPC:
		return "ipc"
	case unix.CLONE_NEWUTS:
		return "uts"
	case unix.CLONE_NEWPID:
		return "pid"
	case unix.CLONE_NEWNS:
		return "mount"
	case unix.CLONE_NEWCGROUP:
		return "cgroup"
	case unix.CLONE_NEWTIME:
		return "time"
	}
	return fmt.Sprintf("%#x", kind)
}

func pointers(s []string) ([]*byte, error) {
	out := make([]*byte, len(s)+1)
	for i := range s {
		p, err := unix.BytePtrFromString(s[i])
		if err != nil {
			return nil, fmt.Errorf("argument %d: %w", i, err)
		}
		out[i] = p
	}
	return out, nil
}
