// Package systemd asks systemd for scope units, the cgroups it makes for
// processes it did not start, over D-Bus.
//
// It speaks the five calls the systemd cgroup driver needs and nothing else:
// StartTransientUnit, SetUnitProperties, StopUnit, ResetFailedUnit, Subscribe
// (org.freedesktop.systemd1(5)). A D-Bus library would be the largest
// dependency of a program that is executed for each container; the part of the
// protocol in use (D-Bus specification 0.43: little-endian messages, EXTERNAL
// authentication) is two short files.
//
// The connection goes to systemd's own socket, as systemctl's does for root,
// so that neither a bus daemon's load nor its absence matters; the system bus
// is second choice.
package systemd

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Sockets on which systemd answers, best first.
const (
	Private = "/run/systemd/private"
	System  = "/run/dbus/system_bus_socket"
)

const (
	manager     = "org.freedesktop.systemd1.Manager"
	destination = "org.freedesktop.systemd1"
	object      = "/org/freedesktop/systemd1"
)

// Conn is one connection. It serves one call at a time.
type Conn struct {
	conn   *os.File
	in     *bufio.Reader
	serial uint32
	jobs   map[string]string // results of finished jobs nobody has asked for yet
}

// Dial connects to the first socket that answers, Private and System unless
// others are given. Without systemd the error wraps errors.ErrUnsupported.
func Dial(ctx context.Context, sockets ...string) (*Conn, error) {
	if len(sockets) == 0 {
		sockets = []string{Private, System}
	}
	var errs []error
	for _, s := range sockets {
		c, err := dial(ctx, s)
		if err == nil {
			return c, nil
		}
		errs = append(errs, err)
	}
	// The first socket's reason is the one that counts; of one that is merely absent the last speaks as well as the first.
	// (Joined errors are lines, and of a runtime's output only the last line is passed on.)
	err := errs[0]
	for _, e := range errs {
		if !errors.Is(e, fs.ErrNotExist) {
			err = e
			break
		}
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w: %w", errors.ErrUnsupported, err)
	}
	return nil, fmt.Errorf("connect to systemd: %w", err)
}

func dial(ctx context.Context, socket string) (*Conn, error) {
	conn, err := connect(ctx, socket)
	if err != nil {
		return nil, err
	}
	c := &Conn{conn: conn, in: bufio.NewReader(conn), jobs: map[string]string{}}
	done := c.deadline(ctx)
	defer done()
	err = c.authenticate()
	if err == nil && socket == System {
		_, err = c.roundTrip(call("org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"))
	}
	if err == nil {
		_, err = c.roundTrip(managerCall("Subscribe"))
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("%s: %w", socket, err)
	}
	return c, nil
}

// connect is net.Dial without package net, which would double the size of the
// smallest programs that use this one.
func connect(ctx context.Context, socket string) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	for {
		err = unix.Connect(fd, &unix.SockaddrUnix{Name: socket})
		if err == nil {
			return os.NewFile(uintptr(fd), socket), nil
		}
		// EAGAIN: the queue of the listener is full (unix(7)).
		if err == unix.EAGAIN {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(5 * time.Millisecond):
				continue
			}
		}
		unix.Close(fd)
		return nil, &fs.PathError{Op: "connect", Path: socket, Err: err}
	}
}

// Close ends the connection.
func (c *Conn) Close() error { return c.conn.Close() }

// deadline makes reads and writes end with ctx until the returned function is
// called.
func (c *Conn) deadline(ctx context.Context) func() {
	c.conn.SetDeadline(time.Time{})
	stop := context.AfterFunc(ctx, func() { c.conn.SetDeadline(time.Unix(1, 0)) })
	return func() { stop() }
}

// authenticate proves the caller's uid, which the socket tells systemd anyway.
func (c *Conn) authenticate() error {
	uid := hex.EncodeToString([]byte(strconv.Itoa(os.Geteuid())))
	// BEGIN goes with it, as sd-bus's own clients do: sent after OK it can reach systemd together with the first call,
	// which then lies in its buffer unread until something else arrives.
	if _, err := io.WriteString(c.conn, "\x00AUTH EXTERNAL "+uid+"\r\nBEGIN\r\n"); err != nil {
		return err
	}
	line, err := c.in.ReadString('\n')
	if err != nil {
		return err
	}
	if !strings.HasPrefix(line, "OK ") {
		return fmt.Errorf("authenticate: %q: %w", strings.TrimSpace(line), fs.ErrPermission)
	}
	return nil
}

// roundTrip sends a call and waits for its reply. Signals about finished jobs
// that arrive meanwhile are kept.
func (c *Conn) roundTrip(m message) (message, error) {
	c.serial++
	m.serial = c.serial
	if _, err := c.conn.Write(m.encode()); err != nil {
		return message{}, err
	}
	for {
		r, err := c.receive()
		if err != nil {
			return message{}, err
		}
		if r.replyTo != m.serial {
			continue
		}
		if r.kind == kindError {
			return message{}, &Error{Name: r.errorName, Text: r.text()}
		}
		return r, nil
	}
}

func (c *Conn) receive() (message, error) {
	m, err := readMessage(c.in)
	if err != nil {
		return message{}, err
	}
	if m.kind == kindSignal && m.member == "JobRemoved" {
		if job, result, ok := m.jobRemoved(); ok {
			c.jobs[job] = result
		}
	}
	return m, nil
}

// job runs a call that answers with a job and waits until that job is done.
func (c *Conn) job(ctx context.Context, m message) error {
	defer c.deadline(ctx)()
	c.jobs = map[string]string{}
	r, err := c.roundTrip(m)
	if err != nil {
		return because(ctx, err)
	}
	path := r.text()
	for {
		if result, ok := c.jobs[path]; ok {
			if result != "done" && result != "skipped" {
				return fmt.Errorf("job %s", result)
			}
			return nil
		}
		if _, err := c.receive(); err != nil {
			return because(ctx, err)
		}
	}
}

// because prefers the context's reason to the time-out it causes.
func because(ctx context.Context, err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) && ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// Error is an answer of systemd that is an error.
type Error struct {
	Name string // "org.freedesktop.systemd1.NoSuchUnit"
	Text string
}

func (e *Error) Error() string { return e.Text + " (" + e.Name + ")" }

// Is sorts systemd's errors into classes of io/fs.
func (e *Error) Is(target error) bool {
	switch e.Name {
	case destination + ".NoSuchUnit":
		return target == fs.ErrNotExist
	case destination + ".UnitExists":
		return target == fs.ErrExist
	}
	return false
}

// Scope is a scope unit to start.
type Scope struct {
	Name        string // "berth-ID.scope"
	Slice       string // unit of the parent, which systemd starts when needed
	Description string
	PID         int  // first process; systemd refuses an empty scope
	OOMKill     bool // the OOM killer takes all of it (memory.oom.group), which can't be said later
}

// StartScope starts a scope and returns when its cgroup is there. systemd is
// told to leave what is in the group to us (Delegate), and to forget the unit
// when it is empty, failed or not.
func (c *Conn) StartScope(ctx context.Context, s Scope) error {
	err := c.job(ctx, managerCall("StartTransientUnit", s.Name, "replace", s.properties(), auxiliary{}))
	var refused *Error
	if s.OOMKill && errors.As(err, &refused) && refused.Name == "org.freedesktop.DBus.Error.PropertyReadOnly" {
		s.OOMKill = false // scopes have it since version 253
		err = c.job(ctx, managerCall("StartTransientUnit", s.Name, "replace", s.properties(), auxiliary{}))
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", s.Name, err)
	}
	return nil
}

func (s Scope) properties() []Property {
	props := []Property{
		{"Description", s.Description},
		{"Slice", s.Slice},
		{"PIDs", []uint32{uint32(s.PID)}},
		{"Delegate", true},
		{"DefaultDependencies", false},
		{"CollectMode", "inactive-or-failed"},
		{"CPUAccounting", true},
		{"MemoryAccounting", true},
		{"TasksAccounting", true},
		{"IOAccounting", true},
	}
	if s.OOMKill {
		props = append(props, Property{"OOMPolicy", "kill"})
	}
	return props
}

// SetProperties changes a unit until the next boot, so that systemd writes the
// same limits when it reloads as the caller wrote to the group.
func (c *Conn) SetProperties(ctx context.Context, unit string, props []Property) error {
	defer c.deadline(ctx)()
	if _, err := c.roundTrip(managerCall("SetUnitProperties", unit, true, props)); err != nil {
		return fmt.Errorf("set properties of %s: %w", unit, because(ctx, err))
	}
	return nil
}

// Stop stops a unit, which kills what is in it, and clears a failed state that
// would keep its name taken. A unit that is not there is stopped.
func (c *Conn) Stop(ctx context.Context, unit string) error {
	err := c.job(ctx, managerCall("StopUnit", unit, "replace"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("stop %s: %w", unit, err)
	}
	return c.ResetFailed(ctx, unit)
}

// ResetFailed clears a unit's failed state; nothing to clear is success.
func (c *Conn) ResetFailed(ctx context.Context, unit string) error {
	defer c.deadline(ctx)()
	_, err := c.roundTrip(managerCall("ResetFailedUnit", unit))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("reset %s: %w", unit, because(ctx, err))
	}
	return nil
}
