package launch

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sort"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// Container is one that exists, in whatever condition. Close it.
type Container struct {
	rt    *Runtime
	dir   *state.Dir
	State *state.State
}

// Open finds a container; fs.ErrNotExist when there is none of that id.
func (r *Runtime) Open(id string) (*Container, error) {
	dir, err := state.Open(r.Root, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &refusal{id, textNotExist, fs.ErrNotExist}
	}
	if err != nil {
		return nil, err
	}
	st, err := dir.Read()
	if err != nil {
		dir.Close()
		return nil, err
	}
	return &Container{rt: r, dir: dir, State: st}, nil
}

// Close gives the descriptor back.
func (c *Container) Close() error { return c.dir.Close() }

// group opens the container's cgroup; nil when it has none any more.
func (c *Container) group() (*cgroup.Group, error) {
	if c.State.Cgroup == "" {
		return nil, nil
	}
	g, err := cgroup.Open(c.State.Cgroup)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return g, err
}

// Status tells the container's state, paused included.
func (c *Container) Status() state.Status {
	s := c.dir.Status(c.State)
	if s == state.Running || s == state.Created {
		if g, err := c.group(); err == nil && g != nil {
			if frozen, err := g.Frozen(); err == nil && frozen {
				return state.Paused
			}
		}
	}
	return s
}

// JSON is the document of the state command (runtime.md, "State").
func (c *Container) JSON() ([]byte, error) {
	doc := ociState(c.State, c.Status())
	if doc.Status == "stopped" {
		doc.Pid = 0
	}
	if doc.Status == "paused" {
		doc.Status = "paused"
	}
	return json.MarshalIndent(struct {
		Version     string            `json:"ociVersion"`
		ID          string            `json:"id"`
		Pid         int               `json:"pid"`
		Status      string            `json:"status"`
		Bundle      string            `json:"bundle"`
		Rootfs      string            `json:"rootfs"`
		Created     time.Time         `json:"created"`
		Annotations map[string]string `json:"annotations,omitempty"`
		Owner       string            `json:"owner"`
	}{doc.Version, doc.ID, doc.Pid, string(doc.Status), doc.Bundle, c.State.Rootfs, c.State.Created, doc.Annotations, c.State.Owner}, "", "  ")
}

// Start has the init execute the container's program, and runs the poststart hooks.
func (c *Container) Start(ctx context.Context) error {
	deadline, _ := ctx.Deadline()
	err := c.dir.Start(deadline)
	if errors.Is(err, fs.ErrNotExist) {
		return mayStart(c.State.ID, c.Status())
	}
	if err != nil {
		return err
	}
	for _, h := range c.State.Poststart {
		b, _ := json.Marshal(ociState(c.State, state.Running))
		if err := h.Run(b); err != nil {
			return errors.Join(fmt.Errorf("poststart: %w", err), c.stop())
		}
	}
	return nil
}

// stop ends what a poststart hook has condemned (runtime.md, "Lifecycle", 9). It waits for nothing: delete does.
func (c *Container) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	return c.killAll(ctx, unix.SIGKILL)
}

// Kill sends a signal to the container's process, or with all to each process in its cgroup.
func (c *Container) Kill(ctx context.Context, sig unix.Signal, all bool) error {
	if all {
		return c.killAll(ctx, sig)
	}
	fd, err := unix.PidfdOpen(max(c.State.Pid, 1), 0)
	if err == nil {
		defer unix.Close(fd)
	}
	if err != nil || !c.State.Alive() {
		return &refusal{c.State.ID, textNotRunning, fs.ErrNotExist}
	}
	if err := unix.PidfdSendSignal(fd, sig, nil, 0); err != nil {
		return fmt.Errorf("signal %d: %w", sig, err)
	}
	return c.thawFor(sig)
}

// thawFor lets a frozen container die of a SIGKILL: on v1 a frozen task does not see signals.
func (c *Container) thawFor(sig unix.Signal) error {
	if sig != unix.SIGKILL {
		return nil
	}
	g, err := c.group()
	if err != nil || g == nil {
		return err
	}
	if frozen, err := g.Frozen(); err != nil || !frozen {
		return nil
	}
	return g.Thaw()
}

func (c *Container) killAll(ctx context.Context, sig unix.Signal) error {
	if c.State.Cgroup == "" {
		return c.Kill(ctx, sig, false) // all that is known of it
	}
	g, err := c.group()
	if err != nil || g == nil {
		return err
	}
	if sig == unix.SIGKILL {
		return g.Kill(ctx)
	}
	return cgroup.Signal(g, sig)
}

// Delete removes a container. Without force it must not run; with it whatever is left of it is killed first. What is
// gone already does not matter, so it works from every half-made state.
func (c *Container) Delete(ctx context.Context, force bool) error {
	if s := c.dir.Status(c.State); s != state.Stopped && !force {
		return &refusal{c.State.ID, "cannot delete container that is not stopped: " + string(s), fs.ErrInvalid}
	}
	if err := c.State.End(ctx); err != nil {
		return err
	}
	for _, h := range c.State.Poststop {
		b, _ := json.Marshal(ociState(c.State, state.Stopped))
		if err := h.Run(b); err != nil {
			c.rt.warn(err.Error())
		}
	}
	return c.dir.Remove()
}

// Pause freezes the container's processes, Resume lets them go on. One that is paused can't be paused again.
func (c *Container) Pause(ctx context.Context) error {
	g, err := c.running()
	if err != nil {
		return err
	}
	if frozen, err := g.Frozen(); err == nil && frozen {
		return &refusal{c.State.ID, textNotRunning, fs.ErrInvalid}
	}
	return g.Freeze(ctx)
}

// Resume is the inverse of Pause.
func (c *Container) Resume() error {
	g, err := c.running()
	if err != nil {
		return err
	}
	if frozen, err := g.Frozen(); err == nil && !frozen {
		return &refusal{c.State.ID, textNotPaused, fs.ErrInvalid}
	}
	return g.Thaw()
}

func (c *Container) running() (*cgroup.Group, error) {
	s := c.dir.Status(c.State)
	if c.State.Cgroup == "" && s != state.Stopped {
		return nil, fmt.Errorf("container %s has no cgroup: %w", c.State.ID, errors.ErrUnsupported)
	}
	g, err := c.group()
	if err == nil && (s != state.Running && s != state.Created || g == nil) {
		err = &refusal{c.State.ID, textNotRunning + ": " + string(s), fs.ErrInvalid}
	}
	return g, err
}

// Procs lists the processes of the container, as pids of the caller's PID namespace.
func (c *Container) Procs() ([]int, error) {
	if c.State.Cgroup == "" && c.State.Alive() {
		return []int{c.State.Pid}, nil // all that is known of it
	}
	g, err := c.group()
	if err != nil || g == nil {
		return nil, err
	}
	return g.Procs()
}

// Update changes limits; the document is a LinuxResources object.
func (c *Container) Update(doc io.Reader) error {
	r := new(cgroup.Resources)
	if err := json.NewDecoder(doc).Decode(r); err != nil {
		return fmt.Errorf("resources: %w", err)
	}
	g, err := c.running()
	if err != nil {
		return err
	}
	return g.Set(r)
}

// List returns the ids under the root, in order.
func (r *Runtime) List() ([]string, error) {
	entries, err := os.ReadDir(r.Root)
	if err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	var ids []string
	for _, e := range entries {
		if e.IsDir() && e.Name()[0] != '.' {
			ids = append(ids, e.Name())
		}
	}
	sort.Strings(ids)
	return ids, nil
}
