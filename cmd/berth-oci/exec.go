package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch"
	"github.com/berth-runtime/berth/oci/launch/nofile"
	"github.com/berth-runtime/berth/oci/launch/quick"
)

// words collects a flag given several times.
type words []string

func (w *words) String() string     { return strings.Join(*w, ",") }
func (w *words) Set(s string) error { *w = append(*w, s); return nil }

// execArgs are the flags of exec that make or change the process document.
type execArgs struct {
	process, cwd, user, apparmor, label string
	env, caps, gids                     words
	tty, noNewPrivs                     bool
}

func (x *execArgs) declare(f *flag.FlagSet) {
	f.StringVar(&x.process, "process", "", "process.json")
	f.StringVar(&x.process, "p", "", "process.json")
	f.StringVar(&x.cwd, "cwd", "", "working directory")
	f.StringVar(&x.user, "user", "", "uid[:gid]")
	f.StringVar(&x.user, "u", "", "uid[:gid]")
	f.StringVar(&x.apparmor, "apparmor", "", "profile")
	f.StringVar(&x.label, "process-label", "", "SELinux label")
	f.Var(&x.env, "env", "variable")
	f.Var(&x.env, "e", "variable")
	f.Var(&x.caps, "cap", "capability to add")
	f.Var(&x.caps, "c", "capability to add")
	f.Var(&x.gids, "additional-gids", "groups")
	f.Var(&x.gids, "g", "groups")
	f.BoolVar(&x.tty, "tty", false, "with a terminal")
	f.BoolVar(&x.tty, "t", false, "with a terminal")
	f.BoolVar(&x.noNewPrivs, "no-new-privs", false, "set no_new_privs")
}

func (a *app) exec(ctx context.Context, args []string) (int, error) {
	f := flags("exec")
	var x execArgs
	var detach bool
	o := &launch.ExecOptions{NoFile: nofile.Soft}
	x.declare(f)
	f.BoolVar(&detach, "detach", false, "do not wait")
	f.BoolVar(&detach, "d", false, "do not wait")
	f.StringVar(&o.PidFile, "pid-file", "", "file to write the pid to")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "socket that gets the pty's master")
	f.StringVar(&o.Cgroup, "cgroup", "", "[controller:]name of a cgroup below the container's")
	f.IntVar(&o.PreserveFDs, "preserve-fds", 0, "descriptors from 3 on to pass on")
	f.BoolVar(&o.IgnorePaused, "ignore-paused", false, "go on in a paused container")
	pidfd := f.String("pidfd-socket", "", "socket that gets a pidfd of the process")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 255, err
	}
	if text := quick.Said(); text != "" { // the process was begun before the Go runtime was
		return 255, errors.New("exec failed: " + text)
	}
	code := 0
	err = a.with(rest[0], func(c *launch.Container) error {
		if launch.Unprivileged() {
			code, err = a.again("exec", args, c.Again)
			return err
		}
		if o.Process, err = x.document(c, rest[1:]); err != nil {
			return err
		}
		var tty *terminal
		if o.Process.Terminal && o.ConsoleSocket == "" {
			if detach {
				return errDetached
			}
			if tty, err = newTerminal(); err != nil {
				return err
			}
			defer tty.close()
			o.Console = tty.theirs
		}
		code, err = watch(ctx, c, o, tty, watched{detach, *pidfd})
		return err
	})
	if err != nil {
		return 255, fmt.Errorf("exec failed: %w", err)
	}
	return code, nil
}

// watched says what becomes of a process that has been started by exec.
type watched struct {
	detach bool
	pidfd  string
}

// watch runs the process and, unless detached, waits for its end.
func watch(ctx context.Context, c *launch.Container, o *launch.ExecOptions, tty *terminal, w watched) (int, error) {
	var signals chan os.Signal
	if !w.detach {
		signals = caught()
		defer signal.Stop(signals)
	}
	pid, err := c.Exec(ctx, o)
	if err != nil {
		return 255, err
	}
	err = sendPidfd(w.pidfd, pid, "setns")
	if err == nil && tty != nil {
		err = tty.show()
	}
	if err != nil { // nobody would know of the process
		unix.Kill(pid, unix.SIGKILL)
		attend(pid, caught())
		return 255, err
	}
	if w.detach {
		return 0, nil
	}
	return attend(pid, signals), nil
}

// document reads process.json, or makes one from the container's own process and the flags.
func (x *execArgs) document(c *launch.Container, args []string) (*specs.Process, error) {
	if x.process != "" {
		text, err := os.ReadFile(x.process)
		if err != nil {
			return nil, err
		}
		p := new(specs.Process)
		if err := json.Unmarshal(text, p); err != nil {
			return nil, fmt.Errorf("%s: %w", x.process, err)
		}
		return p, nil
	}
	p, err := c.Process()
	if err != nil {
		return nil, err
	}
	p.Args, p.Terminal, p.ConsoleSize = args, x.tty, nil
	p.Env = append(p.Env, x.env...)
	if x.cwd != "" {
		p.Cwd = x.cwd
	}
	if x.apparmor != "" {
		p.ApparmorProfile = x.apparmor
	}
	if x.label != "" {
		p.SelinuxLabel = x.label
	}
	p.NoNewPrivileges = p.NoNewPrivileges || x.noNewPrivs
	return p, x.identity(p)
}

func (x *execArgs) identity(p *specs.Process) error {
	if len(x.caps) > 0 {
		if p.Capabilities == nil {
			p.Capabilities = &specs.LinuxCapabilities{}
		}
		k := p.Capabilities
		k.Bounding, k.Effective, k.Permitted = append(k.Bounding, x.caps...), append(k.Effective, x.caps...), append(k.Permitted, x.caps...)
	}
	for _, list := range x.gids {
		for _, g := range strings.Split(list, ",") {
			n, err := strconv.ParseUint(g, 10, 32)
			if err != nil {
				return fmt.Errorf("additional gid %q: %w", g, fs.ErrInvalid)
			}
			p.User.AdditionalGids = append(p.User.AdditionalGids, uint32(n))
		}
	}
	if x.user == "" {
		return nil
	}
	uid, gid, has := strings.Cut(x.user, ":")
	n, err := strconv.ParseUint(uid, 10, 32)
	if err == nil && has {
		var g uint64
		g, err = strconv.ParseUint(gid, 10, 32)
		p.User.GID = uint32(g)
	}
	if err != nil {
		return fmt.Errorf("user %q: %w", x.user, fs.ErrInvalid)
	}
	p.User.UID = uint32(n)
	return nil
}

// caught are signals that ask for an end, for a process that is to be waited for. It begins before there is one: whoever
// hears of the process may send the next signal.
func caught() chan os.Signal {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGQUIT, unix.SIGUSR1, unix.SIGUSR2, unix.SIGWINCH)
	return c
}

// forward passes signals on to a process; the returned function ends that.
func forward(c chan os.Signal, pid int) func() {
	// ends when the channel is closed by the returned function
	go func() {
		for s := range c {
			unix.Kill(pid, s.(unix.Signal))
		}
	}()
	return func() { signal.Stop(c); close(c) }
}
