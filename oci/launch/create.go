package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/plan"
	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/resctrl"
	"github.com/berth-runtime/berth/oci/launch/spawn"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// Runtime is one root directory and how to talk about it.
type Runtime struct {
	Root    string       // where containers are kept, one directory each
	Systemd bool         // cgroupsPath is "slice:prefix:name"
	Inside  bool         // this process is in the user namespace that config.json asks for
	Warn    func(string) // what did not work and need not; nil: dropped
}

// CreateOptions are the arguments of create besides the id.
type CreateOptions struct {
	Bundle        string
	PidFile       string
	ConsoleSocket string
	Console       *os.File // connected socket that gets the pty's master if there is one, instead of ConsoleSocket
	PreserveFDs   int
	ListenFDs     int    // sockets passed by a service manager from 3 on, before those of PreserveFDs (sd_listen_fds(3))
	NoFile        uint64 // soft RLIMIT_NOFILE the runtime was started with; 0: not known
	NoPivot       bool   // ignored: the old root is never reachable
	NoNewKeyring  bool
}

// creation is one create under way.
type creation struct {
	rt      *Runtime
	opts    *CreateOptions
	id      string
	config  *plan.Config
	spaces  *plan.Spaces
	plan    *plan.Plan
	dir     *state.Dir
	st      *state.State
	group   *cgroup.Group
	exe     *os.File
	sources opened
	meta    string // listenerMetadata of the seccomp profile
	rdt     *resctrl.Plan
	child   *child
	begun   bool // hooks may have run: poststop is due even if create fails (runtime.md, "Lifecycle", 12, 13)
}

// Create makes a container up to the point where only its program is missing. On error nothing is left.
func (r *Runtime) Create(ctx context.Context, id string, opts *CreateOptions) error {
	c := &creation{rt: r, opts: opts, id: id}
	err := c.do(ctx)
	if err != nil {
		c.undo()
	}
	c.release()
	return err
}

func (c *creation) do(ctx context.Context) error {
	for _, step := range [...]func() error{c.read, c.claim, c.enterCgroup, c.clone, c.decide, c.send, c.await, c.limit, c.record} {
		if err := step(); err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
	return nil
}

func (c *creation) read() error {
	bundle, err := filepath.Abs(c.opts.Bundle)
	if err != nil {
		return err
	}
	c.opts.Bundle = bundle
	text, err := os.ReadFile(bundle + "/config.json")
	if err != nil {
		return err
	}
	if c.config, err = plan.Parse(text); err != nil {
		return err
	}
	if n := c.opts.ListenFDs; n > 0 {
		c.opts.PreserveFDs += n
		c.config.Process.Env = append(c.config.Process.Env, "LISTEN_FDS="+strconv.Itoa(n), "LISTEN_PID=1")
	}
	if err := checkLabels(c.config.Process, c.config.Linux.MountLabel); err != nil {
		return err
	}
	if c.spaces, err = c.config.Spaces(); err != nil {
		return err
	}
	if c.rt.Inside { // the new user namespace is the one this process has been put in
		c.spaces.New &^= unix.CLONE_NEWUSER
	}
	return nil
}

// claim takes the id and writes down what would have to be removed if this process ended now.
func (c *creation) claim() error {
	var err error
	if c.sources.console, err = openConsole(c.opts.ConsoleSocket, c.opts.Console, c.config.Process.Terminal); err != nil {
		return err
	}
	c.dir, err = state.Create(c.rt.Root, c.id)
	if errors.Is(err, fs.ErrExist) {
		return &refusal{c.id, textExist, fs.ErrExist}
	}
	if err != nil {
		return err
	}
	c.st = &state.State{ID: c.id, Version: c.config.Version, Bundle: c.opts.Bundle, Rootfs: c.rootfs(), Boot: state.BootID(),
		Cgroup: c.cgroupPath(), Systemd: c.rt.Systemd, Created: time.Now().UTC(), Owner: "root", Annotations: c.config.Annotations}
	if err := c.reserve(); err != nil {
		return err
	}
	if err := c.dir.Write(c.st); err != nil {
		return err
	}
	c.sources.listen, err = c.dir.Listen()
	return err
}

func (c *creation) rootfs() string {
	if p := c.config.Root.Path; p == "" || filepath.IsAbs(p) {
		return p
	}
	return filepath.Join(c.opts.Bundle, c.config.Root.Path)
}

// clone starts the init. It loads its program while this process goes on deciding and opening.
func (c *creation) clone() error {
	if score := c.config.Process.OOMScoreAdj; score != nil {
		if err := oomScore(*score); err != nil {
			c.rt.warn(err.Error())
		}
	}
	var err error
	if c.exe, err = c.rt.openExe(c.spaces.User != "" || c.spaces.New&unix.CLONE_NEWUSER != 0); err != nil {
		return err
	}
	var entry cgroup.Entry
	if c.group != nil {
		if entry, err = c.group.Entry(); err != nil {
			return err
		}
		defer entry.Close()
	}
	req := &spawn.Request{Exe: c.exe, New: c.spaces.New &^ unix.CLONE_NEWUSER, Cgroup: entry.Dir}
	for _, f := range entry.Tasks {
		req.Tasks = append(req.Tasks, int(f.Fd()))
	}
	if c.spaces.New&unix.CLONE_NEWUSER != 0 {
		req.NewUser = true
		req.Maps = func(pid int) error { return writeMaps(pid, c.spaces.UIDs, c.spaces.GIDs) }
	}
	if c.spaces.Offsets != "" {
		req.Offsets = func(pid int) error { return writeOffsets(pid, c.spaces.Offsets) }
	}
	files, err := c.join(req)
	defer closeAll(files)
	if err != nil {
		return err
	}
	c.child, err = startInit(req, c.opts.PreserveFDs)
	runtime.KeepAlive(entry)
	return err
}

// decide makes the plan and opens what it names of the host.
func (c *creation) decide() error {
	host := plan.Host{ID: c.id, Bundle: c.opts.Bundle, Nested: Nested(), Console: c.sources.console != nil, PreserveFDs: uint64(c.opts.PreserveFDs), NoFile: nofile(c.opts.NoFile)}
	if c.group != nil {
		host.Unified, host.CgroupPath, host.CgroupDirs = c.group.Mode() == cgroup.Unified, c.group.Path(), c.group.Dirs()
	}
	f, err := c.rt.filter(c.config.Linux.Seccomp)
	if err != nil {
		return err
	}
	host.Listener = f.listener
	c.st.Seccomp, c.st.Filter = f.code != nil, f.cache
	if c.plan, err = c.config.Container(host, c.spaces); err != nil {
		return err
	}
	for _, text := range c.config.Warnings {
		c.rt.warn(text)
	}
	c.plan.Program.Process.Security.Filter, c.meta = f.code, f.metadata
	if c.opts.NoNewKeyring {
		c.plan.Program.Setup = c.plan.Program.Setup[1:]
	}
	c.sources.maps = &idmaps{exe: c.exe}
	return c.sources.open(c.plan.Sources)
}

func (c *creation) send() error {
	if err := c.child.await(); err != nil {
		return err
	}
	c.st.Pid = c.child.pid()
	if err := c.furnish(); err != nil {
		return err
	}
	if c.group != nil {
		c.group.Settle()
	}
	if err := errors.Join(c.deny(), c.delegate()); err != nil {
		return err
	}
	c.plan.SetState(c.stateJSON(state.Creating), c.stateJSON(state.Created))
	c.plan.Program.Process.Security.NotifyState = notifyState(c.st, c.st.Pid, c.meta)
	return c.child.send(&c.plan.Program, c.sources.fds)
}

// await listens to the init until it is ready, and runs hooks when it asks for them.
func (c *creation) await() error {
	c.begun = true
	return c.child.converse(c.rt.warn, func(string) error {
		doc := c.stateJSON(state.Creating)
		for _, list := range [...][]hook.Hook{c.plan.Hooks.Prestart, c.plan.Hooks.CreateRuntime} {
			for _, h := range list {
				if err := h.Run(doc); err != nil {
					return err
				}
			}
		}
		return nil
	})
}

func (c *creation) record() error {
	_, start, err := state.Stat(c.st.Pid)
	if err != nil {
		return fmt.Errorf("init: %w", err)
	}
	c.st.StartTime, c.st.Early = start, &state.Early{}
	if c.group != nil {
		c.st.Early.Dirs = cgroup.Directories(c.group)
		c.st.Early.Freezer, c.st.Early.Unified = cgroup.Freezer(c.group)
	}
	c.st.Adopted = c.spaces.Mount != ""
	c.st.Poststart, c.st.Poststop = c.plan.Hooks.Poststart, c.plan.Hooks.Poststop
	if err := c.dir.Write(c.st); err != nil {
		return err
	}
	return writePidFile(c.opts.PidFile, c.st.Pid)
}

// undo removes what a create that did not work has made.
func (c *creation) undo() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if c.child != nil {
		c.child.kill()
	}
	if c.begun {
		for _, h := range c.plan.Hooks.Poststop {
			if err := h.Run(c.stateJSON(state.Stopped)); err != nil {
				c.rt.warn(err.Error())
			}
		}
	}
	if c.group != nil {
		c.group.Kill(ctx)
		c.group.Remove(ctx)
	}
	if c.rdt != nil {
		resctrl.Remove(c.rdt.Remove)
	}
	if c.dir != nil {
		c.dir.Remove()
	}
}

func (c *creation) release() {
	c.sources.close()
	closeAll([]*os.File{c.exe, c.sources.listen, c.sources.console})
	if c.child != nil {
		c.child.close()
	}
	if c.dir != nil {
		c.dir.Close()
	}
}

func (c *creation) stateJSON(status state.Status) []byte {
	b, _ := json.Marshal(ociState(c.st, status))
	return b
}

func ociState(s *state.State, status state.Status) *specs.State {
	return &specs.State{Version: specs.Version, ID: s.ID, Status: specs.ContainerState(status), Pid: s.Pid, Bundle: s.Bundle, Annotations: s.Annotations}
}

func (r *Runtime) warn(text string) {
	if r.Warn != nil {
		r.Warn(text)
	}
}

// oomScore sets this process's own value, which the init inherits. Lowering needs CAP_SYS_RESOURCE; without it the
// lowest value allowed stays.
func oomScore(score int) error {
	err := os.WriteFile("/proc/self/oom_score_adj", []byte(strconv.Itoa(score)), 0)
	if errors.Is(err, unix.EACCES) || errors.Is(err, unix.EPERM) {
		return fmt.Errorf("process.oomScoreAdj %d: not permitted to lower it", score)
	}
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj %d: %w", score, err)
	}
	return nil
}

func nofile(soft uint64) program.Rlimit {
	var l unix.Rlimit
	if soft == 0 || unix.Prlimit(0, unix.RLIMIT_NOFILE, nil, &l) != nil {
		return program.Rlimit{}
	}
	return program.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: soft, Hard: l.Max}
}

func writePidFile(name string, pid int) error {
	if name == "" {
		return nil
	}
	tmp := filepath.Dir(name) + "/." + filepath.Base(name)
	if err := os.WriteFile(tmp, []byte(strconv.Itoa(pid)), 0o644); err != nil {
		return fmt.Errorf("pid file: %w", err)
	}
	return os.Rename(tmp, name)
}

func closeAll(files []*os.File) {
	for _, f := range files {
		if f != nil {
			f.Close()
		}
	}
}

// child is an init that has been cloned.
type child struct {
	proc *spawn.Process
	sock *os.File
	got  error
	done bool
}

// startInit clones an init and returns at once. Descriptors 3..3+preserve-1 of this process stay open in it.
func startInit(req *spawn.Request, preserve int) (*child, error) {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socketpair", err)
	}
	defer unix.Close(pair[1])
	req.Keep = append(req.Keep, pair[1])
	for i := range preserve {
		req.Keep = append(req.Keep, 3+i)
	}
	req.Argv = []string{"berth-oci", "init", strconv.Itoa(pair[1])}
	req.Env = []string{"GOMAXPROCS=1", "GOGC=off"}
	c := &child{sock: os.NewFile(uintptr(pair[0]), "init")}
	if c.proc, err = spawn.Start(req); err != nil {
		c.sock.Close()
		return nil, err
	}
	return c, nil
}

func (c *child) pid() int { return c.proc.Pid }

func (c *child) await() error {
	if !c.done {
		c.got, c.done = c.proc.Await(), true
	}
	return c.got
}

func (c *child) send(p *program.Program, fds []int) error {
	err := program.Send(int(c.sock.Fd()), p, fds)
	if err != nil {
		// the init has more to say about it than the socket
		if _, text, e := program.Hear(int(c.sock.Fd())); e == nil {
			return errors.New(text)
		}
		return fmt.Errorf("send program to init: %w", err)
	}
	return nil
}

// converse listens until the init is ready.
func (c *child) converse(warn func(string), hooks func(string) error) error {
	for {
		kind, text, err := program.Hear(int(c.sock.Fd()))
		switch {
		case err == io.EOF:
			return fmt.Errorf("init ended without a word: %s", c.ending())
		case err != nil:
			return fmt.Errorf("init: %w", err)
		case kind == program.Ready:
			return nil
		case kind == program.Failure:
			return errors.New(text)
		case kind == program.Warning:
			warn(text)
		case kind == program.Hooks:
			if err := hooks(text); err != nil {
				return err
			}
			if _, err := c.sock.Write([]byte{1}); err != nil {
				return err
			}
		}
	}
}

// ending reaps a child that has closed its socket, and says how it ended.
func (c *child) ending() string {
	var ws unix.WaitStatus
	for range 100 {
		pid, err := unix.Wait4(c.proc.Pid, &ws, unix.WNOHANG, nil)
		if pid > 0 && ws.Signaled() {
			c.proc.Pid = 0
			if ws.Signal() == unix.SIGKILL {
				return "killed (is the memory limit too low?)"
			}
			return ws.Signal().String()
		}
		if pid > 0 || err != nil {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return fmt.Sprintf("exit status %d", ws.ExitStatus())
}

func (c *child) kill() {
	if c.proc != nil {
		c.proc.Kill()
	}
}

func (c *child) close() { c.sock.Close() }
