// Package state is what the native runtime keeps of a container between its commands.
//
//	<root>/<id>/            0700, made exclusively: that is how an id is claimed
//	    state.json          State; written by create and by nobody else, with a temporary name and rename
//	    start.sock          the init listens here until it executes the container's program
//	    config.json         resources as last set by update (only after an update)
//
// Whether a container is created, running or stopped is never stored but derived: the process recorded is alive when its
// start time is the recorded one on the recorded boot, and created while start.sock still answers. The record is written
// before the cgroup and the process exist, so a create that is killed at any point leaves a directory that tells delete
// everything it may have left behind.
package state

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/resctrl"
)

// State is the record of one container.
type State struct {
	ID          string            `json:"id"`
	Version     string            `json:"ociVersion"`
	Pid         int               `json:"pid"`       // in the host's PID namespace; 0 until the process exists
	StartTime   uint64            `json:"startTime"` // field 22 of proc_pid_stat(5)
	Boot        string            `json:"boot"`
	Bundle      string            `json:"bundle"`
	Rootfs      string            `json:"rootfs"`
	Cgroup      string            `json:"cgroup"` // as in cgroupsPath; "" when the container has none of its own
	Early       *Early            `json:"early,omitempty"`
	Systemd     bool              `json:"systemd,omitempty"`
	Created     time.Time         `json:"created"`
	Owner       string            `json:"owner"`
	Annotations map[string]string `json:"annotations,omitempty"`
	Seccomp     bool              `json:"seccomp,omitempty"`      // the container has a filter
	Filter      string            `json:"filter,omitempty"`       // cached compiled filter, "": to be made from the config
	Groups      []string          `json:"resctrl,omitempty"`      // resctrl directories that end with the container
	Tasks       []string          `json:"resctrlTasks,omitempty"` // resctrl files that take its processes
	Adopted     bool              `json:"adopted,omitempty"`      // the root is a tree outside of the process's mount namespace
	Poststart   []hook.Hook       `json:"poststart,omitempty"`
	Poststop    []hook.Hook       `json:"poststop,omitempty"`
}

// Early is what package quick goes by. Write fills in the flags.
type Early struct {
	Start   bool     `json:"start"`   // to start it is one byte to the socket, no more
	Delete  bool     `json:"delete"`  // once ended, there is nothing to remove but Dirs and the directory
	Dirs    []string `json:"dirs"`    // of the cgroup, in all hierarchies
	Exec    bool     `json:"exec"`    // for an exec there is nothing to do but what is written here
	Filter  string   `json:"filter"`  // cached compiled filter, "": none
	Freezer string   `json:"freezer"` // the directory that tells whether the cgroup is frozen
	Unified string   `json:"unified"` // the directory on cgroup2
}

// Status is the state of a container in the words of runtime.md.
type Status string

const (
	Creating Status = "creating"
	Created  Status = "created"
	Running  Status = "running"
	Stopped  Status = "stopped"
	Paused   Status = "paused"
)

// Dir is one container's directory, by descriptor: names of sockets in deep directories exceed what bind(2) takes.
type Dir struct {
	Path string
	file *os.File
}

// CheckID refuses ids that are no plain file names (runtime.md leaves the alphabet to us).
func CheckID(id string) error {
	bad := func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("_+-.", r))
	}
	if id == "" || id == "." || id == ".." || len(id) > 255 || strings.ContainsFunc(id, bad) {
		return fmt.Errorf("container id %q: %w", id, fs.ErrInvalid)
	}
	return nil
}

// Create claims an id; fs.ErrExist when it is taken.
func Create(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	path := root + "/" + id
	err := os.Mkdir(path, 0o700)
	if os.IsNotExist(err) {
		if err = os.MkdirAll(root, 0o700); err == nil {
			err = os.Mkdir(path, 0o700)
		}
	}
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	return open(path)
}

// Open returns the directory of a container; fs.ErrNotExist when there is none.
func Open(root, id string) (*Dir, error) {
	if err := CheckID(id); err != nil {
		return nil, err
	}
	d, err := open(root + "/" + id)
	if err != nil {
		return nil, fmt.Errorf("container %s: %w", id, err)
	}
	return d, nil
}

func open(path string) (*Dir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return &Dir{Path: path, file: os.NewFile(uintptr(fd), path)}, nil
}

// Close gives the descriptor back.
func (d *Dir) Close() error { return d.file.Close() }

// Remove removes the directory and all in it. Idempotent.
func (d *Dir) Remove() error { return os.RemoveAll(d.Path) }

// Write replaces the record.
func (d *Dir) Write(s *State) error {
	if e := s.Early; e != nil {
		e.Start = len(s.Poststart) == 0
		e.Delete = len(s.Poststop) == 0 && !s.Systemd && len(s.Groups) == 0 && len(e.Dirs) > 0
		e.Exec = !s.Adopted && len(s.Tasks) == 0 && s.Seccomp == (s.Filter != "") && len(e.Dirs) > 0
		e.Filter = s.Filter
	}
	b, err := json.Marshal(s)
	if err != nil {
		return err
	}
	tmp := d.Path + "/state.tmp"
	if err := os.WriteFile(tmp, b, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, d.Path+"/state.json")
}

// Read returns the record. A directory without one belongs to a create that had not got that far: an empty record with
// the id alone stands for it.
func (d *Dir) Read() (*State, error) {
	b, err := os.ReadFile(d.Path + "/state.json")
	s := new(State)
	if err == nil {
		err = json.Unmarshal(b, s)
	}
	if os.IsNotExist(err) {
		return &State{ID: d.Path[strings.LastIndexByte(d.Path, '/')+1:]}, nil
	}
	if err != nil {
		return nil, fmt.Errorf("%s/state.json: %w", d.Path, err)
	}
	return s, nil
}

// socket is the name of the start socket as a path short enough for any directory.
func (d *Dir) socket() string { return fmt.Sprintf("/proc/self/fd/%d/start.sock", d.file.Fd()) }

// Listen binds the start socket and returns it listening, not inherited by default.
func (d *Dir) Listen() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err = unix.Bind(fd, &unix.SockaddrUnix{Name: d.socket()}); err == nil {
		err = unix.Listen(fd, 8)
	}
	if err != nil {
		unix.Close(fd)
		return nil, fmt.Errorf("start socket: %w", err)
	}
	return os.NewFile(uintptr(fd), "start.sock"), nil
}

// dial connects to the init; fs.ErrNotExist when nobody listens any more.
func (d *Dir) dial() (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	err = unix.Connect(fd, &unix.SockaddrUnix{Name: d.socket()})
	if err != nil {
		unix.Close(fd)
		if err == unix.ECONNREFUSED || err == unix.ENOENT {
			err = fs.ErrNotExist
		}
		return nil, err
	}
	return os.NewFile(uintptr(fd), "start.sock"), nil
}

// Start has the init execute the container's program. It returns when that has happened or could not be done;
// fs.ErrNotExist when no init waits there.
func (d *Dir) Start(deadline time.Time) error {
	conn, err := d.dial()
	if err != nil {
		return err
	}
	defer conn.Close()
	conn.SetDeadline(deadline)
	if _, err := conn.Write([]byte{1}); err != nil {
		return err
	}
	var text bytes.Buffer
	_, err = text.ReadFrom(conn)
	if text.Len() > 0 {
		return &StartError{Text: text.String()}
	}
	return err
}

// StartError is what the init had to say instead of executing the program.
type StartError struct{ Text string }

func (e *StartError) Error() string { return e.Text }

// Status derives the state of the container. Paused is not seen here: it is the cgroup's.
func (d *Dir) Status(s *State) Status {
	if !s.Alive() {
		return Stopped
	}
	conn, err := d.dial()
	switch {
	case err == nil:
		conn.Close()
		return Created
	case err == unix.EAGAIN:
		return Created
	}
	return Running
}

// Alive reports whether the recorded process still is what it was, zombies excluded.
func (s *State) Alive() bool {
	if s.Pid <= 0 || s.Boot != BootID() {
		return false
	}
	state, start, err := Stat(s.Pid)
	return err == nil && start == s.StartTime && state != 'Z' && state != 'X'
}

// Stat reads state and start time of a process.
func Stat(pid int) (state byte, start uint64, err error) {
	b, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return 0, 0, err
	}
	i := bytes.LastIndexByte(b, ')')
	f := bytes.Fields(b[i+1:])
	if i < 0 || len(f) < 20 {
		return 0, 0, fmt.Errorf("/proc/%d/stat: %w", pid, fs.ErrInvalid)
	}
	start, err = strconv.ParseUint(string(f[19]), 10, 64)
	return f[0][0], start, err
}

// BootID identifies this boot; pids of another one mean nothing.
func BootID() string {
	b, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(b))
}

// End kills what is left of a container's processes and removes its cgroup. Idempotent.
func (s *State) End(ctx context.Context) error {
	if s.Alive() {
		if fd, err := unix.PidfdOpen(s.Pid, 0); err == nil {
			if s.Alive() { // still the same one, now that it is pinned
				unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
			}
			unix.Close(fd)
		}
	}
	if err := resctrl.Remove(s.Groups); err != nil {
		return err
	}
	if s.Cgroup == "" {
		return nil
	}
	g, err := cgroup.Open(s.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := g.Kill(ctx); err != nil {
		return err
	}
	return g.Remove(ctx)
}
