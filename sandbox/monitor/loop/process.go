package loop

import (
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// drainMax bounds what is read from a dead process's pipes before its death is told: more than any pipe holds here, and an end
// for the case that others go on writing.
const drainMax = 4 << 20

// retryTime is how long an exit file that could not be written waits for the next try, in nanoseconds.
const retryTime = 10e9

// process is a container, an exec or a holder; first, with a pid file, the runtime program that makes it.
//
//	spawn ── runtime works ── adopt ── runs ── dead, told ── output ended ── forgotten
//	              └ fails: answered, forgotten
type process struct {
	l        *loop
	id       string
	pid      int // 0 until adopted
	runtime  int // pid of the working runtime program, which leads its process group; or 0
	deadline int64
	late     bool // the runtime was killed at its deadline
	pidFile  string
	exitFile string
	oomFile  string
	asker    *conn // who waits for the answer, which has number seq
	seq      uint64
	log      *Log
	out      [2]*stream
	in       *stdin
	console  *console
	tail     []byte // end of what the runtime wrote to standard error
	clients  []*attachment
	exit     *wire.Exit
	told     bool // the daemon knows of exit
	unsaved  bool // exit is not in exitFile yet
}

// reap looks at the dead. While a runtime program works, children that nobody knows stay unreaped: one of them may be the
// container it has just made, dead before its pid was read.
func (l *loop) reap() {
	for i := len(l.procs) - 1; i >= 0; i-- { // backwards, for any may leave the table
		p := l.procs[i]
		if p.runtime != 0 {
			var ws syscall.WaitStatus
			if pid, err := wait(p.runtime, &ws); pid != 0 || err != nil {
				p.made(ws)
			}
		}
	}
	for i := len(l.procs) - 1; i >= 0; i-- {
		l.procs[i].check()
	}
	for l.working == 0 {
		info, ok, err := peek(0)
		if !ok || err != nil {
			break
		}
		if p := l.owner(int(info.pid)); p != nil {
			p.check()
			continue
		}
		wait(int(info.pid), nil)
	}
	l.finish()
}

// wait reaps one child if it is dead; 0 if it lives.
func wait(pid int, ws *syscall.WaitStatus) (int, error) {
	for {
		got, err := syscall.Wait4(pid, ws, syscall.WNOHANG, nil)
		if err != syscall.EINTR {
			return got, err
		}
	}
}

// owner gives the living process with a pid, or nil.
func (l *loop) owner(pid int) *process {
	for _, p := range l.procs {
		if p.pid == pid && p.exit == nil {
			return p
		}
	}
	return nil
}

// made goes on after the runtime program's end: adopt what it has made, or answer why it has not.
func (p *process) made(ws syscall.WaitStatus) {
	p.drain() // while its words still count as the runtime's
	p.runtime, p.deadline = 0, 0
	p.l.working--
	err := p.runtimeError(ws)
	if err == nil {
		p.pid, err = adopt(p.pidFile)
	}
	if err == nil && p.console != nil {
		err = p.console.finish()
	}
	if err != nil {
		if p.pid == 0 { // a runtime that was killed may have got as far as naming what it has made
			p.pid, _ = adopt(p.pidFile)
		}
		p.fail(err)
		return
	}
	p.answer(nil)
	p.tail = nil
	p.check()
}

// runtimeError is what the runtime program's end says about its success.
func (p *process) runtimeError(ws syscall.WaitStatus) error {
	text := ""
	switch {
	case ws.Exited() && ws.ExitStatus() == 0:
		return nil
	case p.late:
		return refusal("killed after its time was up", syscall.ETIMEDOUT)
	case ws.Signaled():
		text = "signal " + itoa(int(ws.Signal()))
	default:
		text = "exit status " + itoa(ws.ExitStatus())
	}
	if last := lastLine(p.tail); last != "" {
		text += ": " + last
	}
	return refusal(text, 0)
}

// adopt reads a pid file and makes sure that the process is ours to wait for.
func adopt(path string) (int, error) {
	data, err := readFile(path, 64)
	if err != nil {
		return 0, failure("read "+path, err)
	}
	pid := atoi(data)
	if pid <= 0 {
		return 0, refusal("pid file "+path+": no number", syscall.EINVAL)
	}
	if _, _, err = peek(pid); err != nil {
		return 0, failure("adopt pid "+itoa(pid), err)
	}
	return pid, nil
}

// answer tells the asker of the spawn how it went.
func (p *process) answer(err error) {
	r := &wire.Reply{V: wire.Version, Seq: p.seq, Spawned: &wire.Spawned{Pid: p.pid, Stderr: string(p.tail)}}
	if err != nil {
		r.Err = asError(err)
	}
	var fds []int
	if p.console != nil && err == nil {
		fds = p.console.handOver()
	}
	if p.asker != nil {
		p.asker.send(r, fds)
	} else {
		closeAll(fds)
	}
	p.asker = nil
}

// fail answers with an error and leaves nothing behind.
func (p *process) fail(err error) {
	if p.pid != 0 {
		syscall.Kill(p.pid, syscall.SIGKILL)
		p.pid = 0
	}
	p.answer(err)
	p.release()
	p.l.forget(p)
}

// expire kills a runtime program that has been given its time; or the time has come to try the exit file again.
func (p *process) expire() {
	if p.exit != nil {
		p.settle()
		return
	}
	p.deadline, p.late = 0, true
	killTree(p.runtime)
}

// check looks whether an adopted process is dead and, if so, does all that follows, in the order of the package comment.
func (p *process) check() {
	if p.pid == 0 || p.exit != nil {
		return
	}
	info, ok, err := peek(p.pid)
	if err == nil && !ok {
		return
	}
	x := &wire.Exit{ID: p.id, Pid: p.pid, Code: int(info.status) & 0xff, FinishedAt: time.Now().UnixNano()}
	switch {
	case err != nil: // reaped by somebody else, which nobody can: what is not known must not look like success
		x.Code = 255
	case info.code != cldExited:
		x.Signal = int(info.status)
		x.Code = 128 + x.Signal
	}
	// Before all else: systemd removes a scope's cgroup as soon as it hears that the last process is dead, reaped or not.
	x.OOMKilled = oomKilled(p.oomFile)
	p.drain()
	p.dismiss() // also where others go on writing
	p.unsaved = !writeExit(p.exitFile, x)
	wait(p.pid, nil)
	p.exit = x
	p.told = p.l.exitEvent(x)
	p.settle()
}

// cldExited is CLD_EXITED of siginfo_t: the status is an exit code, otherwise a signal (sigaction(2)).
const cldExited = 1

// drain reads what is in the pipes now.
func (p *process) drain() {
	for _, s := range p.out {
		for n := 0; s != nil && n < drainMax; {
			got := s.read()
			if got <= 0 {
				break
			}
			n += got
		}
	}
}

// settle forgets a process that is dead, whose death was told and is on record, and whose output has ended. On a full disk the
// record waits: until then OpList tells of the death again and again.
func (p *process) settle() {
	if p.exit == nil {
		return
	}
	p.deadline = 0
	if p.unsaved {
		if p.unsaved = !writeExit(p.exitFile, p.exit); p.unsaved {
			p.deadline = nanotime() + retryTime
		}
	}
	if p.out[0] != nil || p.out[1] != nil {
		return
	}
	p.release()
	if p.told && !p.unsaved {
		p.l.forget(p)
	}
}

// dismiss ends all attachments.
func (p *process) dismiss() {
	for len(p.clients) > 0 {
		p.clients[len(p.clients)-1].finish()
	}
}

// release closes all that belongs to the process.
func (p *process) release() {
	for i := range p.out {
		if p.out[i] != nil {
			p.l.drop(p.out[i].fd)
			p.out[i] = nil
		}
	}
	if p.in != nil {
		p.in.close()
	}
	if p.console != nil {
		p.console.close()
		p.console = nil
	}
	p.dismiss()
	p.log.Close()
}

// oomKilled looks for "oom_kill N" with N above zero: memory.oom_control of cgroup v1, memory.events of v2.
func oomKilled(path string) bool {
	if path == "" {
		return false
	}
	data, err := readFile(path, 4096)
	if err != nil {
		return false
	}
	const key = "oom_kill "
	for i := 0; i+len(key) < len(data); i++ {
		if (i == 0 || data[i-1] == '\n') && string(data[i:i+len(key)]) == key {
			return atoi(data[i+len(key):]) > 0
		}
	}
	return false
}

// writeExit puts an exit file in place and says whether it is there; so it is when none is wanted.
func writeExit(path string, x *wire.Exit) bool {
	if path == "" {
		return true
	}
	var room [512]byte
	data, err := wire.Append(room[:0], x)
	if err != nil {
		return false
	}
	tmp := path + ".tmp"
	fd, err := openRetry(tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_TRUNC|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		// A directory that is gone was removed with the container: there is nobody left to read it.
		return err == syscall.ENOENT
	}
	n, err := syscall.Write(fd, data)
	syscall.Close(fd)
	if err == nil && n == len(data) {
		err = syscall.Rename(tmp, path)
	} else {
		err = syscall.EIO
	}
	if err != nil {
		syscall.Unlink(tmp)
	}
	return err == nil
}

// signal sends a signal to a process, or to the runtime program that is making it and its process group; SIGKILL ends also what
// that has made.
func (l *loop) signal(id string, sig syscall.Signal) error {
	p := l.find(id)
	var err error
	switch {
	case p == nil:
		return refusal("process "+id+": not here", syscall.ENOENT)
	case p.exit != nil:
		return refusal("process "+id+": has exited", syscall.ESRCH)
	case p.pid != 0:
		err = syscall.Kill(p.pid, sig)
	case sig == syscall.SIGKILL:
		killTree(p.runtime)
	default:
		err = syscall.Kill(-p.runtime, sig)
	}
	if err != nil {
		return failure("signal "+id, err)
	}
	return nil
}

// reopen moves a process's log to a new file, in any state in which there can still be output.
func (l *loop) reopen(id string) error {
	p := l.find(id)
	if p == nil || p.exit != nil && p.out[0] == nil && p.out[1] == nil {
		return refusal("log of "+id+": no such process", syscall.ENOENT)
	}
	return p.log.Reopen()
}

// lastLine is the last line of text that is not empty.
func lastLine(text []byte) string {
	end := len(text)
	for end > 0 && (text[end-1] == '\n' || text[end-1] == '\r' || text[end-1] == ' ') {
		end--
	}
	start := end
	for start > 0 && text[start-1] != '\n' {
		start--
	}
	return string(text[start:end])
}
