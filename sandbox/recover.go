package sandbox

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// helloBudget bounds the wait for one monitor at start-up, during which nothing is served; they are asked side by side.
// One that needs longer is dialled again in the background, connectBudget each time, and its pod is served meanwhile.
const (
	helloBudget   = time.Second
	connectBudget = 5 * time.Second
)

// recover makes the objects of an earlier daemon known again: for each directory, parse it or remove it; under another
// boot id it is history; where the monitor's lock is free it died; where it is held it is dialled.
func (m *Manager) recover(ctx context.Context) error {
	entries, err := os.ReadDir(filepath.Join(m.opt.Root, "pods"))
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	limit := make(chan struct{}, 16)
	for _, e := range entries {
		all.Add(1)
		limit <- struct{}{}
		// ends within helloBudget and the clean-up of what is half made.
		go func() {
			defer func() { <-limit; all.Done() }()
			if err := m.recoverPod(ctx, e.Name()); err != nil {
				m.opt.Log.Warn("pod not recovered", "dir", e.Name(), "err", err)
			}
		}()
	}
	all.Wait()
	m.sortIndex()
	m.sweepState()
	m.bg.Add(1)
	// ends when its budget is used up at the latest: nothing waits for what is given back.
	go func() {
		defer m.bg.Done()
		ctx, cancel := context.WithTimeout(m.life, clearBudget)
		defer cancel()
		// A pod's directory is made before its network is touched, and goes after it was given back.
		keep := func(id string) bool { return exists(m.podDir(id)) }
		if err := m.opt.Network.Collect(ctx, keep); err != nil {
			m.opt.Log.Warn("network attachments not collected", "err", err)
		}
		if err := m.opt.Images.Collect(ctx); err != nil {
			m.opt.Log.Warn("layers not collected", "err", err)
		}
	}()
	return nil
}

// sortIndex brings the lists into the order of creation, which reading side by side has lost.
func (m *Manager) sortIndex() {
	m.update(func(x *index) {
		sortBy(x.podList, func(p *Pod) int64 { return p.rec.CreatedAt })
		sortBy(x.ctrList, func(c *Container) int64 { return c.rec.CreatedAt })
	})
}

// sweepState removes run-time directories that no pod owns: their pods were removed by hand or never recorded.
func (m *Manager) sweepState() {
	dir := filepath.Join(m.opt.State, "pods")
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if !validID(e.Name()) || exists(m.podDir(e.Name())) {
			continue
		}
		recovery{newPod(m, podRecord{ID: e.Name(), Boot: m.boot}, &rt.PodSandboxConfig{}, m.opt.Handlers[0])}.discard()
	}
}

// recoverPod makes one pod known, or removes what is not one.
func (m *Manager) recoverPod(ctx context.Context, id string) error {
	if !validID(id) {
		return fmt.Errorf("%q is not a pod's directory: %w", id, fs.ErrInvalid)
	}
	var rec podRecord
	err := load(filepath.Join(m.podDir(id), "pod.json"), &rec)
	if err == nil && rec.ID != id {
		err = fmt.Errorf("record is of pod %q: %w", rec.ID, fs.ErrInvalid)
	}
	if err != nil {
		p := newPod(m, podRecord{ID: id, Boot: m.boot}, &rt.PodSandboxConfig{}, m.opt.Handlers[0])
		recovery{p}.discard()
		return err
	}
	cfg, err := decodePodConfig(rec.Config)
	if err != nil {
		p := newPod(m, rec, &rt.PodSandboxConfig{}, m.opt.Handlers[0])
		recovery{p}.discard()
		return err
	}
	p := newPod(m, rec, cfg, m.handlerOrGone(rec.Handler))
	if rec.OwnParent {
		m.made.Store(rec.Parent, nil)
	}
	if !rec.Ready && !rec.Stopped {
		recovery{p}.discard() // building was cut short: nobody was given its id
		return nil
	}
	recovery{p}.run(ctx)
	return nil
}

// run makes the pod and its containers known as they are now, and tells what ended while nobody looked.
func (r recovery) run(ctx context.Context) {
	p := r.p
	alive := r.connect(ctx)
	var found []string // what ended without anybody being told
	for _, e := range r.entries() {
		ended, err := r.container(ctx, e, alive)
		if err != nil {
			p.m.opt.Log.Warn("container not recovered", "pod", p.id, "dir", e, "err", err)
		}
		if ended {
			found = append(found, e)
		}
	}
	p.m.update(func(x *index) { x.addPod(p) })
	r.clearRuins()
	if alive == nil {
		r.reconnect()
	} else if r.settle(ctx); p.rec.Ready && !p.view.Load().ready {
		found = append(found, p.id)
	}
	for _, id := range found {
		p.announce(rt.ContainerEventType_CONTAINER_STOPPED_EVENT, id, true)
	}
	for _, c := range p.m.index.Load().containersOf(p) {
		resumeStop(c)
	}
}

// handlerOrGone returns the named handler. For one that is no longer configured it returns what is good enough to remove what
// is left: a handler without a program.
func (m *Manager) handlerOrGone(name string) oci.Handler {
	h, err := m.runtime.Get(name)
	if err != nil {
		return oci.Handler{Name: name, Root: filepath.Join(m.opt.State, "oci", filepath.Base(name)), Err: err}
	}
	return h
}

// recovery brings one pod back.
type recovery struct{ p *Pod }

// discard removes a pod that nobody knows of, containers included, in the background: a network plugin that hangs must
// not keep the daemon from serving. What can't be removed now is tried again until the manager is closed.
func (r recovery) discard() {
	p := r.p
	p.closing = true
	for _, e := range r.entries() {
		if validID(e) {
			leave(p, r.ruin(e))
		}
	}
	p.m.bg.Add(1)
	// ends when nothing is left, or when the manager is closed.
	go func() {
		defer p.m.bg.Done()
		for wait := time.Second; ; wait = min(2*wait, time.Minute) {
			ctx, cancel := context.WithTimeout(p.m.life, clearBudget)
			err := p.clear(ctx, nil)
			cancel()
			if err == nil {
				err = removeAll(p.dir())
			}
			if err == nil || p.m.life.Err() != nil {
				return
			}
			p.m.opt.Log.Warn("half-made pod not removed yet", "pod", p.id, "err", err)
			select {
			case <-time.After(wait):
			case <-p.m.life.Done():
			}
		}
	}()
}

// entries are the names below the pod's directory of containers.
func (r recovery) entries() []string {
	entries, err := os.ReadDir(filepath.Join(r.p.dir(), "c"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		r.p.m.opt.Log.Warn("containers not read", "pod", r.p.id, "err", err)
	}
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// ruin is a container that is to be cleared away, with as much of its record as can be read.
func (r recovery) ruin(id string) *Container {
	rec := containerRecord{}
	if load(filepath.Join(r.p.dir(), "c", id, "container.json"), &rec) != nil || rec.ID != id {
		rec = containerRecord{ID: id, Pod: r.p.id}
	}
	if rec.CgroupsPath == "" {
		rec.CgroupsPath, _ = compile.CgroupsPath(r.p.rec.Parent, id, r.p.m.opt.SystemdCgroup) // "" if the pod's record says nonsense
	}
	return newContainer(r.p, rec, new(rt.ContainerConfig))
}

// connect dials the monitor of a pod that was ready in this boot and returns what lives below it: nothing when it is
// dead, and nil when it does not answer and so nothing is known.
func (r recovery) connect(ctx context.Context) map[string]wire.Process {
	p := r.p
	none := make(map[string]wire.Process)
	if !p.rec.Ready || p.rec.Boot != p.m.boot {
		return none
	}
	mon, alive, err := r.dial(ctx, helloBudget)
	if err != nil {
		p.m.opt.Log.Warn("monitor not reached", "pod", p.id, "err", err)
		if errors.Is(err, fs.ErrNotExist) {
			return none
		}
		return nil
	}
	p.adopt(mon)
	return alive
}

func (r recovery) dial(ctx context.Context, within time.Duration) (*monitor.Monitor, map[string]wire.Process, error) {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	mon, err := monitor.Connect(ctx, r.p.state())
	if err != nil {
		return nil, nil, err
	}
	procs, err := mon.List(ctx)
	if err != nil {
		mon.Close()
		return nil, nil, err
	}
	alive := make(map[string]wire.Process)
	for _, pr := range procs {
		alive[pr.ID] = pr
	}
	return mon, alive, nil
}

// reconnect goes on dialling a monitor that lives and does not answer, in the background: the pod is served from its
// records meanwhile. A slow monitor is no reason to kill what it keeps.
func (r recovery) reconnect() {
	p := r.p
	over := make(chan struct{})
	p.sup.sought.Store(&over)
	p.m.bg.Add(1)
	// ends when the monitor answers or is dead, when the pod is stopped, or when the manager is closed.
	go func() {
		defer p.m.bg.Done()
		defer p.sup.sought.Store(nil)
		defer close(over)
		for p.life.Err() == nil {
			mon, alive, err := r.dial(p.life, connectBudget)
			if errors.Is(err, fs.ErrNotExist) {
				ctx, cancel := context.WithTimeout(p.m.life, clearBudget)
				p.bury(ctx)
				cancel()
				return
			}
			if err == nil {
				p.adopt(mon)
				for _, c := range p.m.index.Load().containersOf(p) {
					settle(p.life, c, alive)
				}
				return
			}
			select {
			case <-time.After(time.Second):
			case <-p.life.Done():
			}
		}
	}()
}

// settle decides what the pod is now: ready only with a living monitor and its namespaces in place.
func (r recovery) settle(ctx context.Context) {
	p := r.p
	if !p.rec.Ready {
		return
	}
	if p.sup.mon.Load() != nil && (p.netns() == "" || exists(p.netns())) {
		return
	}
	p.bury(ctx)
	if p.rec.Boot != p.m.boot {
		// After a reboot the addresses may be another pod's. The plugin is told so when the pod is stopped.
		if err := p.change(func(r *podRecord) { r.IPs = nil }); err != nil {
			p.m.opt.Log.Warn("pod record not saved", "pod", p.id, "err", err)
		}
	}
}

// clearRuins removes containers whose making was cut short, in the background; what can't be removed goes with the pod.
func (r recovery) clearRuins() {
	p := r.p
	if len(p.ruins) == 0 {
		return
	}
	p.m.bg.Add(1)
	// ends when its budget is used up at the latest.
	go func() {
		defer p.m.bg.Done()
		ctx, cancel := context.WithTimeout(p.m.life, clearBudget)
		defer cancel()
		if err := clearRuins(ctx, p); err != nil {
			p.m.opt.Log.Warn("containers stay half made until their pod is stopped", "pod", p.id, "err", err)
		}
	}()
}

// container makes one of the pod's containers known, and tells whether its end is news. One that is half made is left to
// clearRuins.
func (r recovery) container(ctx context.Context, id string, alive map[string]wire.Process) (ended bool, err error) {
	p := r.p
	if !validID(id) {
		return false, fmt.Errorf("%q is not a container's directory: %w", id, fs.ErrInvalid)
	}
	var rec containerRecord
	err = load(filepath.Join(p.dir(), "c", id, "container.json"), &rec)
	if err == nil && (rec.ID != id || rec.Pod != p.id) {
		err = fmt.Errorf("record is of container %q: %w", rec.ID, fs.ErrInvalid)
	}
	cfg, cerr := decodeContainerConfig(rec.Config)
	if err = errors.Join(err, cerr); err != nil || !rec.Created {
		leave(p, r.ruin(id)) // nobody was given its id: creation was cut short, or the record is damaged
		return false, err
	}
	c := newContainer(p, rec, cfg)
	p.m.opt.Images.Keep(c.id, rec.Layers)
	p.m.update(func(x *index) { x.addContainer(c) })
	return settle(ctx, c, alive), nil
}

// settle decides what the container is now. exit.json is the truth, then the record, then the monitor's word (nil: it
// said nothing). It returns true for an end of which no daemon was told.
func settle(ctx context.Context, c *Container, alive map[string]wire.Process) (news bool) {
	switch r := c.rec; {
	case r.StartError != "":
		c.finish(containerView{finishedAt: r.EndedAt, code: startFailed, reason: "StartError", message: r.StartError})
		return false
	case r.Seen != nil:
		c.finish(seen(*r.Seen))
		return false
	case r.Lost:
		end := unseen()
		end.finishedAt = r.EndedAt
		c.finish(end)
		return false
	}
	c.catchUp(ctx)
	proc, lives := alive[c.id]
	if c.view.Load().ended || alive == nil {
		return proc.Exit != nil
	}
	if !lives {
		c.bury(ctx)
		return true
	}
	watch(c, c.pod.sup.mon.Load(), proc.Pid)
	if c.rec.StartingAt != 0 && c.rec.StartedAt == 0 {
		settleStart(c)
	}
	return false
}

// settleStart finds out how far a start came that the daemon did not live to see.
func settleStart(c *Container) {
	if !runs(c) {
		return // still waiting: it may be started again
	}
	at := c.rec.StartingAt
	if err := c.change(func(r *containerRecord) { r.StartedAt = at }); err != nil {
		c.m.opt.Log.Warn("container record not saved", "container", c.id, "err", err)
	}
	c.show(func(v *containerView) { v.startedAt = at })
}

func sortBy[T any](s []T, at func(T) int64) {
	slices.SortStableFunc(s, func(a, b T) int { return cmp.Compare(at(a), at(b)) })
}
