package main

import (
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// sample is one run of one program.
type sample struct {
	wall, cpu time.Duration // cpu: user and system, with all children it waited for
	rss       int64         // KiB, the largest process of those
}

// series are the samples of one phase.
type series struct {
	wall, cpu []time.Duration
	rss       []int64
}

func (p *peer) add(phase string, s sample) {
	t := p.phases[phase]
	if t == nil {
		t = &series{}
		p.phases[phase] = t
	}
	if s.rss > 0 {
		t.rss = append(t.rss, s.rss)
	}
	if p.time == "" {
		t.wall, t.cpu = append(t.wall, s.wall), append(t.cpu, s.cpu)
	}
}

// forget drops the warm-up of a kind of round: 0 lives, 1 execs.
func (p *peer) forget(kind int) {
	for name := range p.phases {
		if (name == "exec") == (kind == 1) {
			delete(p.phases, name)
		}
	}
}

// command runs the runtime to its end. What it says on standard error becomes the error.
func (p *peer) command(args []string) (sample, error) {
	argv := append([]string{p.bin}, args...)
	if p.time != "" {
		argv = append([]string{p.time, "-f", "%M", "-o", p.bundle + "/weight"}, argv...)
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return sample{}, err
	}
	defer null.Close()
	said, err := os.CreateTemp("", "bench-stderr") // a pipe would stay open in the container
	if err != nil {
		return sample{}, err
	}
	defer os.Remove(said.Name())
	defer said.Close()
	begin := time.Now()
	pid, err := syscall.ForkExec(argv[0], argv, &syscall.ProcAttr{Env: os.Environ(),
		Files: []uintptr{null.Fd(), null.Fd(), said.Fd()}})
	if err != nil {
		return sample{}, err
	}
	s, ws, err := wait(pid)
	s.wall, s.rss = time.Since(begin), 0
	if p.time != "" {
		text, _ := os.ReadFile(p.bundle + "/weight")
		s.rss, _ = strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64)
	}
	if err == nil && (!ws.Exited() || ws.ExitStatus() != 0) {
		text, _ := os.ReadFile(said.Name())
		err = fmt.Errorf("status %#x: %s", int(ws), strings.TrimSpace(string(text)))
	}
	return s, err
}

func wait(pid int) (sample, unix.WaitStatus, error) {
	for {
		var ws unix.WaitStatus
		var ru unix.Rusage
		_, err := unix.Wait4(pid, &ws, 0, &ru)
		if err == unix.EINTR {
			continue
		}
		return usage(&ru), ws, os.NewSyscallError("wait4", err)
	}
}

func usage(ru *unix.Rusage) sample {
	return sample{cpu: time.Duration(ru.Utime.Nano() + ru.Stime.Nano()), rss: ru.Maxrss}
}

// reapInit waits for the container's process, which has become a child of this one. Its memory is the largest it ever
// had: as the runtime's init, most likely.
func (p *peer) reapInit() (sample, error) {
	text, err := os.ReadFile(p.bundle + "/pid")
	if err != nil {
		return sample{}, err
	}
	pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
	if err != nil {
		return sample{}, err
	}
	s, _, err := wait(pid)
	return s, err
}

// reapAll takes what has ended and was left behind.
func reapAll() sample {
	var all sample
	for {
		var ru unix.Rusage
		pid, err := unix.Wait4(-1, nil, unix.WNOHANG, &ru)
		if err != nil || pid <= 0 {
			return all
		}
		s := usage(&ru)
		all.cpu += s.cpu
		all.rss = max(all.rss, s.rss)
	}
}

func median[T int64 | time.Duration](list []T) (low, mid T) {
	if len(list) == 0 {
		return 0, 0
	}
	s := slices.Sorted(slices.Values(list))
	return s[0], s[len(s)/2]
}
