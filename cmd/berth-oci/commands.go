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
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch"
	"github.com/berth-runtime/berth/oci/launch/nofile"
	"github.com/berth-runtime/berth/oci/launch/quick"
)

func createFlags(f *flag.FlagSet) (o *launch.CreateOptions, pidfd *string) {
	o = &launch.CreateOptions{}
	pidfd = f.String("pidfd-socket", "", "socket that gets a pidfd of the container's process")
	f.StringVar(&o.Bundle, "bundle", ".", "directory with config.json")
	f.StringVar(&o.Bundle, "b", ".", "directory with config.json")
	f.StringVar(&o.ConsoleSocket, "console-socket", "", "socket that gets the pty's master")
	f.StringVar(&o.PidFile, "pid-file", "", "file to write the init's pid to")
	f.IntVar(&o.PreserveFDs, "preserve-fds", 0, "descriptors from 3 on to pass to the container")
	f.BoolVar(&o.NoPivot, "no-pivot", false, "accepted for compatibility: the root is always pivoted")
	o.NoFile, o.ListenFDs = nofile.Soft, listenFDs()
	f.BoolVar(&o.NoNewKeyring, "no-new-keyring", false, "keep the caller's session keyring")
	return o, pidfd
}

// interruptible has SIGINT and SIGTERM end a context, for run, which has nobody behind it that would delete what is half
// made. To the other commands these signals are what SIGKILL is: delete finds what there is to remove. So no thread has
// to wait for signals in them, nor the system to switch to it.
func interruptible(ctx context.Context) (context.Context, func()) {
	return signal.NotifyContext(ctx, unix.SIGINT, unix.SIGTERM)
}

// listenFDs counts the sockets of a service manager that are meant for this process (sd_listen_fds(3)).
func listenFDs() int {
	n, err := strconv.Atoi(os.Getenv("LISTEN_FDS"))
	if err != nil || n < 0 || n > 1024 || os.Getenv("LISTEN_PID") != strconv.Itoa(os.Getpid()) {
		return 0
	}
	return n
}

func (a *app) create(ctx context.Context, args []string) (int, error) {
	f := flags("create")
	o, pidfd := createFlags(f)
	rest, err := parse(f, args, 1)
	if err != nil {
		return 1, err
	}
	if launch.Unprivileged() {
		return a.again("create", args, func(argv []string) (*os.Process, error) { return a.rt.AgainForBundle(o.Bundle, argv) })
	}
	if err := a.rt.Create(ctx, rest[0], o); err != nil || *pidfd == "" {
		return 0, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		err := sendPidfd(*pidfd, c.State.Pid, "standard")
		if err != nil {
			err = errors.Join(err, c.Delete(context.Background(), true))
		}
		return err
	})
}

// runContainer is create, start and, unless detached, wait and delete.
func (a *app) runContainer(ctx context.Context, args []string) (int, error) {
	f := flags("run")
	o, pidfd := createFlags(f)
	var detach, keep bool
	f.BoolVar(&detach, "detach", false, "do not wait")
	f.BoolVar(&detach, "d", false, "do not wait")
	f.BoolVar(&keep, "keep", false, "do not delete at the end")
	f.Bool("no-subreaper", false, "accepted for compatibility")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 1, err
	}
	if launch.Unprivileged() {
		return a.again("run", args, func(argv []string) (*os.Process, error) { return a.rt.AgainForBundle(o.Bundle, argv) })
	}
	var tty *terminal
	if !detach && o.ConsoleSocket == "" {
		if tty, err = newTerminal(); err != nil {
			return 1, err
		}
		defer tty.close()
		o.Console = tty.theirs
	}
	ctx, stop := interruptible(ctx)
	defer stop()
	if err := a.rt.Create(ctx, rest[0], o); err != nil {
		return 1, err
	}
	code := 0
	err = a.with(rest[0], func(c *launch.Container) error {
		remove := func(err error) error { return errors.Join(err, c.Delete(context.Background(), true)) }
		var signals chan os.Signal
		if !detach {
			signals = caught()
			defer signal.Stop(signals)
		}
		if err := a.begin(ctx, c, tty, *pidfd); err != nil {
			return remove(err)
		}
		if detach {
			return nil
		}
		code = attend(c.State.Pid, signals)
		if keep {
			return nil
		}
		return remove(nil)
	})
	return code, err
}

// begin starts a container whose terminal, if it has one, is shown.
func (a *app) begin(ctx context.Context, c *launch.Container, tty *terminal, pidfd string) error {
	if err := sendPidfd(pidfd, c.State.Pid, "standard"); err != nil {
		return err
	}
	if tty != nil {
		p, err := c.Process()
		if err != nil {
			return err
		}
		if p.Terminal {
			if err := tty.show(); err != nil {
				return err
			}
		}
	}
	return c.Start(ctx)
}

func (a *app) start(ctx context.Context, args []string) (int, error) {
	rest, err := parse(flags("start"), args, 1)
	if err != nil {
		return 1, err
	}
	if text := quick.Said(); text != "" {
		return 1, errors.New(text)
	}
	return 0, a.with(rest[0], func(c *launch.Container) error { return c.Start(ctx) })
}

func (a *app) state(_ context.Context, args []string) (int, error) {
	rest, err := parse(flags("state"), args, 1)
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error {
		b, err := c.JSON()
		fmt.Printf("%s\n", b)
		return err
	})
}

func (a *app) kill(ctx context.Context, args []string) (int, error) {
	f := flags("kill")
	all := f.Bool("all", false, "every process of the container")
	f.BoolVar(all, "a", false, "every process of the container")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 1, err
	}
	// runc takes the flag after the id as well
	for len(rest) > 1 && (rest[len(rest)-1] == "--all" || rest[len(rest)-1] == "-a") {
		*all, rest = true, rest[:len(rest)-1]
	}
	sig := unix.SIGTERM
	if len(rest) > 1 {
		if sig, err = signalOf(rest[1]); err != nil {
			return 1, err
		}
	}
	return 0, a.with(rest[0], func(c *launch.Container) error { return c.Kill(ctx, sig, *all) })
}

func signalOf(s string) (unix.Signal, error) {
	if n, err := strconv.Atoi(s); err == nil && n >= 0 && n <= 64 {
		return unix.Signal(n), nil
	}
	name := strings.ToUpper(s)
	if !strings.HasPrefix(name, "SIG") {
		name = "SIG" + name
	}
	if n := unix.SignalNum(name); n != 0 {
		return n, nil
	}
	return 0, fmt.Errorf("unknown signal %q: %w", s, fs.ErrInvalid)
}

func (a *app) delete(ctx context.Context, args []string) (int, error) {
	f := flags("delete")
	force := f.Bool("force", false, "kill what still runs")
	f.BoolVar(force, "f", false, "kill what still runs")
	rest, err := parse(f, args, 1)
	if err != nil {
		return 1, err
	}
	if len(rest) > 1 && (rest[1] == "--force" || rest[1] == "-f") {
		*force = true
	}
	err = a.with(rest[0], func(c *launch.Container) error { return c.Delete(ctx, *force) })
	if *force && errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return 0, err
}

func (a *app) pause(ctx context.Context, args []string) (int, error) {
	rest, err := parse(flags("pause"), args, 1)
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error { return c.Pause(ctx) })
}

func (a *app) resume(_ context.Context, args []string) (int, error) {
	rest, err := parse(flags("resume"), args, 1)
	if err != nil {
		return 1, err
	}
	return 0, a.with(rest[0], func(c *launch.Container) error { return c.Resume() })
}

func (a *app) list(_ context.Context, args []string) (int, error) {
	f := flags("list")
	format := f.String("format", "table", "table or json")
	f.StringVar(format, "f", "table", "table or json")
	quiet := f.Bool("quiet", false, "ids only")
	f.BoolVar(quiet, "q", false, "ids only")
	if _, err := parse(f, args, 0); err != nil {
		return 1, err
	}
	if *format != "table" && *format != "json" {
		return 1, fmt.Errorf("list: format %q: %w", *format, fs.ErrInvalid)
	}
	ids, err := a.rt.List()
	if err != nil {
		return 1, err
	}
	docs := []json.RawMessage{}
	if !*quiet && *format == "table" {
		fmt.Println("ID\tPID\tSTATUS\tBUNDLE\tCREATED\tOWNER")
	}
	for _, id := range ids {
		if *quiet {
			fmt.Println(id)
			continue
		}
		a.with(id, func(c *launch.Container) error { // one that is being deleted is not listed
			b, err := c.JSON()
			docs = append(docs, b)
			if *format == "table" {
				fmt.Printf("%s\t%d\t%s\t%s\t%s\t%s\n", id, c.State.Pid, c.Status(), c.State.Bundle,
					c.State.Created.Format(time.RFC3339Nano), c.State.Owner)
			}
			return err
		})
	}
	if !*quiet && *format == "json" {
		return 0, json.NewEncoder(os.Stdout).Encode(docs)
	}
	return 0, nil
}

// attend waits for a child and returns its exit code as shells do, passing signals on meanwhile.
func attend(pid int, signals chan os.Signal) int {
	stop := forward(signals, pid)
	defer stop()
	for {
		var ws unix.WaitStatus
		got, err := unix.Wait4(pid, &ws, 0, nil)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return 255
		case got == pid && ws.Signaled():
			return 128 + int(ws.Signal())
		case got == pid && ws.Exited():
			return ws.ExitStatus()
		}
	}
}
