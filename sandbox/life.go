package sandbox

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/berth-runtime/berth/sandbox/operation"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

const (
	startBudget  = 2 * time.Minute
	removeBudget = 10 * time.Minute
	// signalBudget bounds the sending of a stop signal: a monitor that answers does so at once.
	signalBudget = 30 * time.Second
)

// Start answers StartContainer: it returns once the command has been exec'ed. A command that can't be started leaves
// the container exited with code 128 and reason StartError, which users and controllers know.
func (c *Container) Start(ctx context.Context) error {
	_, err := c.m.ops.Do(ctx, operation.Request{Key: "start container " + c.id, Budget: startBudget}, func(ctx context.Context, op *operation.Operation) (string, error) {
		ctx, leave, err := c.pod.enter(ctx)
		if err != nil {
			return "", fmt.Errorf("start container %s: %w", short(c.id), err)
		}
		defer leave()
		op.At("run " + c.pod.handler.Name + " start")
		if err := start(ctx, c); err != nil {
			return "", fmt.Errorf("start container %s: %w", short(c.id), stopped(ctx, err))
		}
		return c.id, nil
	})
	return err
}

func start(ctx context.Context, c *Container) error {
	if c.view.Load().state() != rt.ContainerState_CONTAINER_CREATED {
		return ErrNotCreated
	}
	if err := checkTarget(c); err != nil {
		return err
	}
	again := c.rec.StartingAt != 0
	// Written before the byte that lets the init go: after a crash in between, recovery asks the runtime.
	if err := c.change(func(r *containerRecord) { r.StartingAt = time.Now().UnixNano() }); err != nil {
		return err
	}
	c.setStarting(true)
	defer func() {
		if e := c.setStarting(false); e != nil {
			c.ended(*e)
		}
	}()
	err := c.pod.handler.Start(ctx, c.id)
	if err != nil && errors.Is(context.Cause(ctx), ErrNotReady) {
		return err // the pod is being stopped, which ends the container as well
	}
	if err != nil && again && runs(c) {
		err = nil // an earlier daemon's start, which outlived it, was faster
	}
	if err != nil {
		end := containerView{code: startFailed, reason: "StartError", message: err.Error()}
		fail(c, end, func(r *containerRecord) { r.StartError = err.Error() })
		return err
	}
	now := time.Now().UnixNano()
	if err := c.change(func(r *containerRecord) { r.StartedAt = now }); err != nil {
		c.m.opt.Log.Warn("container record not saved", "container", c.id, "err", err)
	}
	c.show(func(v *containerView) { v.startedAt = now })
	c.pod.emit(rt.ContainerEventType_CONTAINER_STARTED_EVENT, c.id)
	return nil
}

// setStarting says whether a start is under way, and returns the end that was reported while one was.
func (c *Container) setStarting(on bool) *wire.Exit {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.early
	c.starting, c.early = on, nil
	return e
}

// runs asks the runtime whether the container runs.
func runs(c *Container) bool {
	ctx, cancel := context.WithTimeout(c.m.life, connectBudget)
	defer cancel()
	st, err := c.pod.handler.State(ctx, c.id)
	return err == nil && st.Status == "running"
}

// checkTarget makes sure that the container whose PID namespace is shared still runs.
func checkTarget(c *Container) error {
	opt := c.cfg.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if opt.GetPid() != rt.NamespaceMode_TARGET {
		return nil
	}
	_, err := targetPID(c.pod, opt.GetTargetId())
	return err
}

// Stop answers StopContainer: the stop signal, then after grace SIGKILL to everything in the container. It returns
// when the container has ended. Of several calls at once the shortest grace wins, and the signal is sent once. What was
// begun goes on when its client has left: kubelet's next call finds the container ended.
func (c *Container) Stop(ctx context.Context, grace time.Duration) error {
	if c.view.Load().ended {
		return nil
	}
	if err := stop(ctx, c, grace); err != nil {
		return fmt.Errorf("stop container %s: %w", short(c.id), err)
	}
	return nil
}

func stop(ctx context.Context, c *Container, grace time.Duration) error {
	if grace <= 0 {
		return c.kill(ctx)
	}
	if c.end.by(c, time.Now().Add(grace)) {
		// Before the signal, so that whoever comes after a crash goes on with what was begun.
		at := uptime() + int64(grace)
		noteStop(c, func(s *stopRecord) {
			if s.KillAt == 0 || at < s.KillAt {
				s.KillAt = at
			}
		})
	}
	req := operation.Request{Key: "signal container " + c.id, Budget: signalBudget}
	_, err := c.m.ops.Do(ctx, req, func(ctx context.Context, op *operation.Operation) (string, error) {
		op.At("send the stop signal")
		return "", signalOnce(ctx, c)
	})
	if err != nil {
		return err
	}
	timer := time.NewTimer(grace)
	defer timer.Stop()
	select {
	case <-c.exit:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for its end after the stop signal: %w", ctx.Err())
	case <-timer.C:
	}
	return c.kill(ctx)
}

// deadline is when everything in a container is killed, whoever waits for that. The zero value is never.
type deadline struct {
	mu    sync.Mutex
	at    time.Time
	timer *time.Timer
}

// by kills the container at the given time, and reports whether that is news: an earlier time that was set before counts.
func (d *deadline) by(c *Container, at time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !at.Before(d.at) {
		return false
	}
	if d.timer != nil {
		d.timer.Stop()
	}
	d.at, d.timer = at, time.AfterFunc(time.Until(at), func() {
		if c.view.Load().ended || c.m.life.Err() != nil {
			return // the daemon that comes after this one reads it in the record
		}
		ctx, cancel := context.WithTimeout(c.m.life, clearBudget)
		defer cancel()
		if err := c.kill(ctx); err != nil && c.m.life.Err() == nil {
			c.m.opt.Log.Warn("container not killed after its grace", "container", c.id, "err", err)
		}
	})
	return true
}

// noteStop records how far a stop has come. It goes on without the record: a full disk must not keep a container alive.
func noteStop(c *Container, f func(*stopRecord)) {
	err := c.change(func(r *containerRecord) {
		if r.Stopping == nil {
			r.Stopping = new(stopRecord)
		}
		f(r.Stopping)
	})
	if err != nil {
		c.m.opt.Log.Warn("container record not saved", "container", c.id, "err", err)
	}
}

// stopBegun returns what is on record of a stop, nil if there was none.
func stopBegun(c *Container) *stopRecord {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.rec.Stopping == nil {
		return nil
	}
	s := *c.rec.Stopping
	return &s
}

// resumeStop goes on with a stop that another daemon began and did not live to finish: the client may have left meanwhile,
// and what was begun goes on without it. The signal is sent if it is not on record that it was.
func resumeStop(c *Container) {
	s := stopBegun(c)
	if s == nil || c.view.Load().ended {
		return
	}
	left := max(time.Duration(s.KillAt-uptime()), time.Nanosecond)
	c.m.bg.Add(1)
	// ends when the container has ended, or when the manager is closed.
	go func() {
		defer c.m.bg.Done()
		if err := stop(c.m.life, c, left); err != nil && c.m.life.Err() == nil {
			c.m.opt.Log.Warn("container whose stop was begun by an earlier daemon is not stopped", "container", c.id, "err", err)
		}
	}()
}

// never disarms the deadline of a container that has ended.
func (d *deadline) never() {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
}

// signalOnce sends the stop signal to the container's init unless that was done before. A container that is not
// started yet has nothing that could handle a signal: it is killed by the caller in the end, so ask for that at once.
func signalOnce(ctx context.Context, c *Container) error {
	if s := stopBegun(c); s != nil && s.Signaled {
		return nil
	}
	if c.view.Load().startedAt == 0 {
		return c.kill(ctx)
	}
	mon, err := c.pod.sup.get(ctx)
	if err == nil {
		if g, gerr := (footprint{c}).cgroup(); gerr == nil {
			// A frozen container would never see the signal.
			if frozen, ferr := g.Frozen(); ferr == nil && frozen {
				g.Thaw()
			}
		}
		err = mon.Signal(ctx, c.id, syscall.Signal(c.rec.StopSignal))
	}
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ESRCH) {
		return nil // it ended by itself: the wait sees it
	}
	if err == nil {
		// After the signal: a crash in between sends it twice, where before it might be lost.
		noteStop(c, func(s *stopRecord) { s.Signaled = true })
	}
	return err
}

// kill ends everything in the container and waits until it is gone or ctx ends.
func (c *Container) kill(ctx context.Context) error {
	if err := (footprint{c}).killGroup(ctx); err != nil {
		return err
	}
	select {
	case <-c.exit:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for its end after SIGKILL: %w", ctx.Err())
	}
}

// footprint is what a container has in the kernel and with its runtime: cgroup, processes, state.
type footprint struct{ c *Container }

// killGroup kills by cgroup, which reaches every process also where the PID namespace is shared, and the init by its
// parent in case it left the cgroup.
func (f footprint) killGroup(ctx context.Context) error {
	c := f.c
	g, err := f.cgroup()
	if err == nil {
		err = g.Kill(ctx)
	}
	if mon := c.pod.sup.mon.Load(); mon != nil {
		ctx, cancel := context.WithTimeout(ctx, signalBudget) // a silent monitor: the cgroup has done it
		defer cancel()
		if kerr := mon.Signal(ctx, c.id, syscall.SIGKILL); kerr == nil || errors.Is(kerr, fs.ErrNotExist) || errors.Is(kerr, syscall.ESRCH) {
			return nil
		}
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("kill cgroup %s: %w", c.rec.CgroupsPath, err)
	}
	return nil
}

// cgroup opens the container's cgroup, once.
func (f footprint) cgroup() (*cgroup.Group, error) {
	c := f.c
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.group != nil {
		return c.group, nil
	}
	g, err := cgroup.Open(c.rec.CgroupsPath)
	if err != nil {
		return nil, err
	}
	c.group = g
	return g, nil
}

// release gives back what only a living container needs: its cgroup and the runtime's state. It runs in the
// background; Remove does the same again, and what is gone already is no error.
func (f footprint) release() {
	c := f.c
	c.m.bg.Add(1)
	// ends when its budget is used up at the latest.
	go func() {
		defer c.m.bg.Done()
		ctx, cancel := context.WithTimeout(c.m.life, clearBudget)
		defer cancel()
		if err := f.giveBack(ctx); err != nil && c.m.life.Err() == nil {
			c.m.opt.Log.Warn("ended container keeps resources until it is removed", "container", c.id, "err", err)
		}
	}()
}

// giveBack removes the runtime's state and the cgroup of an ended container. Idempotent. Who comes while it is being
// done joins: a runtime that is told to delete a container twice at once fails one of them.
func (f footprint) giveBack(ctx context.Context) error {
	if f.c.given.Load() {
		return nil
	}
	req := operation.Request{Key: "give back container " + f.c.id, Budget: clearBudget}
	_, err := f.c.m.ops.Do(ctx, req, func(ctx context.Context, op *operation.Operation) (string, error) {
		op.At("run " + f.c.pod.handler.Name + " delete")
		err := f.giveBackNow(ctx)
		f.c.given.Store(err == nil)
		return "", err
	})
	return err
}

func (f footprint) giveBackNow(ctx context.Context) error {
	c := f.c
	g, err := f.cgroup()
	switch {
	case err == nil:
		if err := g.Kill(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("kill cgroup: %w", err)
		}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := c.pod.handler.Delete(ctx, c.id); err != nil {
		return fmt.Errorf("%s delete: %w", c.pod.handler.Name, err)
	}
	if g != nil {
		if err := cgroup.Destroy(ctx, g); err != nil {
			return err // names the cgroup
		}
		g.Close()
	}
	if err := c.m.roots().Remove(c.pod.id, c.id); err != nil {
		return err
	}
	err = os.Remove(f.pidFile())
	if errors.Is(err, fs.ErrNotExist) {
		err = nil
	}
	return err
}

// Remove answers RemoveContainer: a running container is killed first. Logs stay.
func (c *Container) Remove(ctx context.Context) error {
	_, err := c.m.ops.Do(ctx, operation.Request{Key: "remove container " + c.id, Budget: removeBudget}, func(ctx context.Context, op *operation.Operation) (string, error) {
		op.At("kill")
		if err := c.kill(ctx); err != nil && !c.view.Load().ended {
			return "", fmt.Errorf("remove container %s: %w", short(c.id), err)
		}
		op.At("clear")
		if err := (footprint{c}).clear(ctx); err != nil {
			return "", fmt.Errorf("remove container %s: %w", short(c.id), err)
		}
		c.pod.emit(rt.ContainerEventType_CONTAINER_DELETED_EVENT, c.id)
		c.m.update(func(x *index) { x.dropContainer(c) })
		return c.id, nil
	})
	return err
}

// clear gives back everything the container has, from whatever state it is in. Idempotent.
func (f footprint) clear(ctx context.Context) error {
	c := f.c
	if c.rec.CgroupsPath != "" {
		if err := f.killGroup(ctx); err != nil {
			return err
		}
		if err := f.giveBack(ctx); err != nil {
			return err
		}
	}
	if err := removeAll(c.dir()); err != nil {
		return err
	}
	return c.m.opt.Images.Release(c.id)
}

// catchUp takes notice of an exit that was reported before anybody knew the container.
func (c *Container) catchUp(context.Context) {
	var e wire.Exit
	if load(filepath.Join(c.dir(), "exit.json"), &e) == nil {
		c.ended(e)
	}
}

// ReopenLog answers ReopenContainerLog: when it returns the file at the log path exists and takes all further lines.
func (c *Container) ReopenLog(ctx context.Context) error {
	if err := c.running(); err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	mon, err := c.pod.sup.get(ctx)
	if err != nil {
		return fmt.Errorf("reopen log: %w", err)
	}
	if err := mon.ReopenLog(ctx, c.id); err != nil {
		return fmt.Errorf("reopen log of container %s: %w", short(c.id), err)
	}
	return nil
}

// Update answers UpdateContainerResources: fields that are not set stay as they are, and a value that the kernel
// refuses leaves all of them as they were.
func (c *Container) Update(ctx context.Context, r *rt.LinuxContainerResources) error {
	// One after another: each builds upon what the one before left in force.
	c.limits.Lock()
	defer c.limits.Unlock()
	v := c.view.Load()
	if v.ended {
		return fmt.Errorf("update container %s: %w", short(c.id), ErrNotRunning)
	}
	if r == nil {
		return nil
	}
	merged := compile.MergeResources(v.resources, r)
	res, err := compile.Resources(merged, c.m.host.Compile)
	if err != nil {
		return fmt.Errorf("update container %s: %w", short(c.id), err)
	}
	if res.Memory != nil && c.m.host.Compile.CgroupV2 {
		// cgroup v1 refuses a limit below what is in use and can't be reclaimed; v2 takes it and kills.
		check := true
		res.Memory.CheckBeforeUpdate = &check
	}
	if err := (footprint{c}).limit(ctx, res); err != nil {
		return fmt.Errorf("update container %s: %w", short(c.id), err)
	}
	c.show(func(v *containerView) { v.resources = merged })
	return c.change(func(rec *containerRecord) { rec.Resources = encode(merged) })
}

// limit changes the limits in force: all of them or, with an error, none. The native runtime is asked; for a foreign one it is done
// here, by cgroup, since none promises that.
func (f footprint) limit(ctx context.Context, r *specs.LinuxResources) error {
	c := f.c
	if c.pod.handler.Native {
		return c.pod.handler.Update(ctx, c.id, r)
	}
	g, err := f.cgroup()
	if err != nil {
		return err
	}
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	limits := new(cgroup.Resources) // same shape; JSON names match without case
	if err := json.Unmarshal(doc, limits); err != nil {
		return err
	}
	return g.Set(limits)
}
