package loop

import (
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// spawn starts what a request asks for. The answer is sent at once, or, with a pid file, when the runtime program has ended.
func (l *loop) spawn(c *conn, req *wire.Request, fds []int) {
	s := req.Spawn
	err := l.spawnable(s, fds)
	if err != nil {
		closeAll(fds)
		r := asError(err)
		c.answer(req.Seq, r)
		return
	}
	p := &process{l: l, id: s.ID, asker: c, seq: req.Seq, pidFile: s.PidFile, exitFile: s.ExitFile, oomFile: s.OOMFile}
	p.log, err = OpenLog(s.Log, s.LogMax, &l.batch)
	if err == nil {
		l.procs = append(l.procs, p)
		err = p.start(s, fds)
	} else {
		closeAll(fds)
	}
	if err != nil {
		p.fail(err)
		return
	}
	if s.PidFile == "" {
		p.answer(nil)
	}
}

// spawnable checks a request before anything is made.
func (l *loop) spawnable(s *wire.Spawn, fds []int) error {
	switch {
	case s == nil || s.ID == "" || len(s.Argv) == 0:
		return refusal("spawn: want an id and an argv", syscall.EINVAL)
	case l.find(s.ID) != nil:
		return refusal("spawn "+s.ID+": exists", syscall.EEXIST)
	case l.end.begun():
		return refusal("spawn "+s.ID+": monitor is ending", syscall.ESHUTDOWN)
	case s.PassIO && !s.TTY && len(fds) < 3:
		return refusal("spawn "+s.ID+": want three descriptors", syscall.EINVAL)
	case s.TTY && s.PidFile != "" && s.ConsoleSocket == "":
		return refusal("spawn "+s.ID+": want a console socket", syscall.EINVAL)
	}
	for _, name := range s.Held {
		if _, ok := l.held[name]; !ok {
			return refusal("spawn "+s.ID+": nothing held as "+name, syscall.ENOENT)
		}
	}
	return nil
}

// start makes the child's descriptors and the child. It closes fds.
func (p *process) start(s *wire.Spawn, fds []int) error {
	defer closeAll(fds)
	extra := fds
	if s.PassIO && !s.TTY {
		extra = fds[3:]
	}
	stdio, theirs, err := p.stdio(s, fds)
	defer func() { closeAll(theirs) }()
	if err != nil {
		return err
	}
	files := make([]uintptr, 0, 3+len(s.Held)+len(extra))
	for _, fd := range stdio {
		files = append(files, uintptr(fd))
	}
	for _, name := range s.Held {
		files = append(files, uintptr(p.l.held[name]))
	}
	for _, fd := range extra {
		files = append(files, uintptr(fd))
	}
	if s.PidFile != "" {
		syscall.Unlink(s.PidFile) // one of an earlier try would name a stranger
	}
	path := s.Path
	if path == "" {
		path = s.Argv[0]
	}
	pid, err := syscall.ForkExec(path, s.Argv, &syscall.ProcAttr{Dir: s.Dir, Env: s.Env, Files: files, Sys: attributes(s)})
	if err != nil {
		return failure("exec "+path, err)
	}
	if s.PidFile == "" {
		p.pid = pid
		return nil
	}
	p.runtime = pid
	p.l.working++
	if s.Timeout > 0 {
		p.deadline = nanotime() + s.Timeout*1e6
	}
	return nil
}

// attributes translates the rest of a request for the fork.
func attributes(s *wire.Spawn) *syscall.SysProcAttr {
	a := &syscall.SysProcAttr{Setsid: true, Cloneflags: s.Clone}
	if s.TTY && s.PidFile == "" {
		a.Setctty = true // descriptor 0
	}
	if s.PidFile != "" {
		// A runtime program that outlived the monitor would make what nobody waits for.
		a.Pdeathsig = syscall.SIGKILL
	}
	if s.Clone&unix.CLONE_NEWUSER != 0 {
		a.UidMappings, a.GidMappings = idMaps(s.UIDMap), idMaps(s.GIDMap)
		a.GidMappingsEnableSetgroups = true
		// Without an id that is mapped, the exec would take all capabilities in the new namespace away.
		a.Credential = &syscall.Credential{}
	}
	return a
}

func idMaps(m []wire.IDMap) []syscall.SysProcIDMap {
	out := make([]syscall.SysProcIDMap, len(m))
	for i, e := range m {
		out[i] = syscall.SysProcIDMap{ContainerID: int(e.ContainerID), HostID: int(e.HostID), Size: int(e.Size)}
	}
	return out
}

// stdio makes the child's first three descriptors. Those in theirs are the monitor's to close when the child is there, also
// on error.
func (p *process) stdio(s *wire.Spawn, fds []int) (child [3]int, theirs []int, err error) {
	null := p.l.null
	switch {
	case s.TTY && s.PidFile == "":
		slave, err := p.terminal(s)
		if err != nil {
			return child, nil, err
		}
		return [3]int{slave, slave, slave}, []int{slave}, nil
	case s.TTY:
		if p.console, err = listenConsole(p, s); err != nil {
			return child, nil, err
		}
		w, err := p.pipeOut(Stderr)
		if err != nil {
			return child, nil, err
		}
		p.out[Stderr].mute = true
		return [3]int{null, w, w}, []int{w}, nil
	case s.PassIO:
		return [3]int(fds[:3]), nil, nil
	}
	child[0] = null
	for _, st := range []Stream{Stdout, Stderr} {
		w, err := p.pipeOut(st)
		if err != nil {
			return child, theirs, err
		}
		child[1+int(st)] = w
		theirs = append(theirs, w)
	}
	if s.Stdin {
		r, err := p.pipeIn(s.StdinOnce)
		if err != nil {
			return child, theirs, err
		}
		child[0] = r
		theirs = append(theirs, r)
	}
	return child, theirs, nil
}

// pipeOut makes a pipe whose read end becomes one of the process's outputs.
func (p *process) pipeOut(st Stream) (w int, err error) {
	var ends [2]int
	if err = syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return -1, failure("pipe", err)
	}
	if err = p.listen(st, ends[0]); err != nil {
		syscall.Close(ends[0])
		syscall.Close(ends[1])
		return -1, failure("watch pipe", err)
	}
	return ends[1], nil
}

// listen makes a descriptor one of the process's outputs.
func (p *process) listen(st Stream, fd int) error {
	s := &stream{p: p, name: st, fd: fd}
	if err := p.l.watch(fd, unix.EPOLLIN, s); err != nil {
		return err
	}
	p.out[st] = s
	return nil
}

// pipeIn makes the pipe to the process's standard input.
func (p *process) pipeIn(once bool) (r int, err error) {
	var ends [2]int
	if err = syscall.Pipe2(ends[:], syscall.O_CLOEXEC); err != nil {
		return -1, failure("pipe", err)
	}
	p.in = &stdin{p: p, fd: ends[1], once: once}
	if err = p.l.watch(ends[1], 0, p.in); err != nil {
		p.in = nil
		syscall.Close(ends[0])
		syscall.Close(ends[1])
		return -1, failure("watch pipe", err)
	}
	return ends[0], nil
}
