package launch

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/plan"
	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/resctrl"
	"github.com/berth-runtime/berth/oci/launch/spawn"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// ExecOptions are the arguments of exec besides the id.
type ExecOptions struct {
	Process       *specs.Process // what to run
	PidFile       string
	ConsoleSocket string
	Console       *os.File // connected socket that gets the pty's master if there is one, instead of ConsoleSocket
	IgnorePaused  bool     // go on in a paused container: the process waits until it is resumed
	Cgroup        string   // "[controller:]name" below the container's own
	PreserveFDs   int
	NoFile        uint64
	NoSeccomp     bool
}

// execution is one exec under way.
type execution struct {
	ctr     *Container
	opts    *ExecOptions
	prog    program.Program
	pidfd   *os.File
	sub     *cgroup.Group // made for this process, nil when it is in the container's
	exe     *os.File
	console *os.File
	fds     []int
	notify  int    // connected to the seccomp listener; 0: none
	meta    string // listenerMetadata of the profile
	child   *child
}

// Exec runs a process in the container and returns its pid when the program has been executed. On error nothing of it
// is left. The process is a child of the caller.
func (c *Container) Exec(ctx context.Context, opts *ExecOptions) (int, error) {
	e := &execution{ctr: c, opts: opts}
	defer e.release()
	for _, step := range [...]func() error{e.check, e.clone, e.plan, e.send} {
		if err := step(); err != nil {
			e.undo()
			return 0, err
		}
	}
	return e.child.pid(), nil
}

func (e *execution) check() error {
	s := e.ctr.State
	fd, err := unix.PidfdOpen(max(s.Pid, 1), 0)
	if err == nil {
		e.pidfd = os.NewFile(uintptr(fd), "pidfd")
	}
	status := e.ctr.Status()
	if err != nil {
		status = state.Stopped
	}
	if err := mayExec(s.ID, status, e.opts.IgnorePaused); err != nil {
		return err
	}
	if err := checkLabels(e.opts.Process, ""); err != nil {
		return err
	}
	e.console, err = openConsole(e.opts.ConsoleSocket, e.opts.Console, e.opts.Process.Terminal)
	return err
}

func (e *execution) plan() error {
	p := &e.prog
	from := e.opts.Process
	p.Listen, p.Process.Security.Notify = -1, -1
	p.Process.KeepFDs = uint64(e.opts.PreserveFDs)
	warnings, err := plan.Process(from, &p.Process, nofile(e.opts.NoFile))
	if err != nil {
		return err
	}
	for _, text := range warnings {
		e.ctr.rt.warn(text)
	}
	switch {
	case from.Terminal && e.console == nil:
		return errors.New("a terminal needs --console-socket")
	case !from.Terminal && e.console != nil:
		return errors.New("--console-socket without a terminal")
	}
	if !e.opts.NoSeccomp {
		if err := e.filter(); err != nil {
			return err
		}
	}
	if err := e.enter(); err != nil {
		return err
	}
	if err := e.same(); err != nil {
		return err
	}
	if e.console != nil {
		if err := e.slot(e.console); err != nil {
			return err
		}
		p.Setup = append(p.Setup, plan.Pty(from.ConsoleSize, len(e.fds)-1))
	}
	if e.notify > 0 {
		p.Process.Security.Notify = len(e.fds)
		e.fds = append(e.fds, e.notify)
	}
	p.Slots = len(e.fds)
	return nil
}

// same makes sure that what was opened below /proc/PID since check was the container's: while a pidfd can be signalled,
// its process has not been reaped, so its pid was nobody else's.
func (e *execution) same() error {
	if err := unix.PidfdSendSignal(int(e.pidfd.Fd()), 0, nil, 0); err != nil {
		return fmt.Errorf("container %s ended: %w", e.ctr.State.ID, err)
	}
	return nil
}

// enter has the init join the container's mount namespace, and take its root where that is none of that namespace's.
func (e *execution) enter() error {
	proc := "/proc/" + strconv.Itoa(e.ctr.State.Pid)
	mnt, err := os.Open(proc + "/ns/mnt")
	if err != nil {
		return err
	}
	defer mnt.Close()
	if err := e.slot(mnt); err != nil {
		return err
	}
	e.prog.Setup = []program.Step{{Op: program.OpKeyring, Slot: -1, Path: "_ses." + e.ctr.State.ID}, {Op: program.OpSetns, Slot: 0}}
	if !e.ctr.State.Adopted {
		return nil
	}
	fd, err := unix.Open(proc+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &os.PathError{Op: "open", Path: proc + "/root", Err: err}
	}
	e.fds = append(e.fds, fd)
	e.prog.Setup = append(e.prog.Setup, program.Step{Op: program.OpChroot, Slot: 1, Path: "/"})
	return nil
}

// filter is the container's: from the cache by the name that create has noted, or from the config again.
func (c *Container) filter() (filter, error) {
	if !c.State.Seccomp {
		return filter{}, nil
	}
	if code := readCode(c.State.Filter); code != nil {
		return filter{code: code}, nil
	}
	text, err := os.ReadFile(c.State.Bundle + "/config.json")
	if err != nil {
		return filter{}, err
	}
	config, err := plan.Parse(text)
	if err != nil {
		return filter{}, err
	}
	return c.rt.filter(config.Linux.Seccomp)
}

// filter puts the container's filter on the process, with a listener connection of its own where it notifies.
func (e *execution) filter() error {
	f, err := e.ctr.filter()
	if err != nil {
		return err
	}
	e.prog.Process.Security.Filter, e.meta = f.code, f.metadata
	if f.listener != "" {
		if e.notify, err = dialNotify(f.listener); err != nil {
			return fmt.Errorf("linux.seccomp.listenerPath: %w", err)
		}
	}
	return nil
}

func (e *execution) slot(f *os.File) error {
	fd, err := dup(f)
	if err == nil {
		e.fds = append(e.fds, fd)
	}
	return err
}

// clone starts the init, which loads its program while this process goes on, in all namespaces of the container but mount, which the init itself enters last, so that its
// own start-up reads nothing of the container's.
func (e *execution) clone() error {
	req := &spawn.Request{}
	self, theirs := spaceIDs("self"), spaceIDs(strconv.Itoa(e.ctr.State.Pid))
	var files []*os.File
	defer func() { closeAll(files) }()
	kinds := uintptr(0)
	for _, k := range [...]struct {
		name string
		kind uintptr
	}{{"ipc", unix.CLONE_NEWIPC}, {"uts", unix.CLONE_NEWUTS}, {"net", unix.CLONE_NEWNET}, {"pid", unix.CLONE_NEWPID},
		{"cgroup", unix.CLONE_NEWCGROUP}, {"time", unix.CLONE_NEWTIME}} {
		if theirs[k.name] != "" && self[k.name] != theirs[k.name] {
			kinds |= k.kind
		}
	}
	req.Join = []spawn.Join{{FD: int(e.pidfd.Fd()), Kind: kinds}}
	req.Fork = kinds&(unix.CLONE_NEWPID|unix.CLONE_NEWTIME) != 0
	if kinds == 0 {
		req.Join = nil
	}
	if theirs["user"] != "" && self["user"] != theirs["user"] {
		f, err := os.Open("/proc/" + strconv.Itoa(e.ctr.State.Pid) + "/ns/user")
		if err != nil {
			return err
		}
		files, req.User = append(files, f), f
	}
	if err := e.same(); err != nil {
		return err
	}
	entry, err := e.entry()
	if err != nil {
		return err
	}
	defer entry.Close()
	req.Cgroup = entry.Dir
	for _, f := range entry.Tasks {
		req.Tasks = append(req.Tasks, int(f.Fd()))
	}
	if score := e.opts.Process.OOMScoreAdj; score != nil {
		if err := oomScore(*score); err != nil {
			e.ctr.rt.warn(err.Error())
		}
	}
	if e.exe, err = e.ctr.rt.openExe(req.User != nil); err != nil {
		return err
	}
	req.Exe = e.exe
	return initially(e.opts.Process.ExecCPUAffinity, func() error {
		var err error
		e.child, err = startInit(req, e.opts.PreserveFDs)
		return err
	})
}

// spaceIDs reads which namespaces a process is in.
func spaceIDs(pid string) map[string]string {
	ids := map[string]string{}
	for _, name := range [...]string{"ipc", "uts", "net", "pid", "cgroup", "time", "user"} {
		ids[name], _ = os.Readlink("/proc/" + pid + "/ns/" + name)
	}
	return ids
}

// entry opens the cgroup the process is to be born in: the container's, or one below it.
func (e *execution) entry() (cgroup.Entry, error) {
	if e.ctr.State.Cgroup == "" && e.opts.Cgroup == "" {
		return cgroup.Entry{}, nil // a container without one
	}
	g, err := e.ctr.group()
	if err == nil && g == nil {
		err = fmt.Errorf("cgroup %s: %w", e.ctr.State.Cgroup, fs.ErrNotExist)
	}
	if err != nil {
		return cgroup.Entry{}, err
	}
	if name := e.opts.Cgroup; name != "" {
		if _, after, ok := strings.Cut(name, ":"); ok {
			name = after
		}
		if g, err = g.Sub(name); err != nil {
			return cgroup.Entry{}, err
		}
		e.sub = g
	}
	return g.Entry()
}

// send hands the program over and listens until the socket closes by the exec.
func (e *execution) send() error {
	if err := e.child.await(); err != nil {
		return err
	}
	if err := resctrl.Enter(e.ctr.State.Tasks, e.child.pid()); err != nil {
		return fmt.Errorf("linux.intelRdt: %w", err)
	}
	e.prog.Process.Security.NotifyState = notifyState(e.ctr.State, e.child.pid(), e.meta)
	if err := e.child.send(&e.prog, e.fds); err != nil {
		return err
	}
	if err := e.child.converse(e.ctr.rt.warn, func(string) error { return fs.ErrInvalid }); err != nil {
		return err
	}
	pid := e.child.pid()
	if err := writePidFile(e.opts.PidFile, pid); err != nil {
		return err
	}
	if err := e.child.executed(); err != nil {
		if e.opts.PidFile != "" {
			os.Remove(e.opts.PidFile)
		}
		return err
	}
	return nil
}

func (e *execution) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	if e.child != nil {
		e.child.kill()
	}
	if e.sub != nil {
		if pids, err := e.sub.Procs(); err == nil && len(pids) == 0 {
			e.sub.Remove(ctx)
		}
	}
}

func (e *execution) release() {
	closeAll([]*os.File{e.pidfd, e.exe, e.console})
	for _, fd := range e.fds {
		unix.Close(fd)
	}
	if e.child != nil {
		e.child.close()
	}
}

// executed waits until the init's end of the socket is closed: by the exec, or after it has said why not.
func (c *child) executed() error {
	kind, text, err := program.Hear(int(c.sock.Fd()))
	switch {
	case err == nil && kind == program.Failure:
		return errors.New(text)
	case err == nil:
		return fmt.Errorf("init said %q after it was ready: %w", kind, fs.ErrInvalid)
	}
	return nil
}
