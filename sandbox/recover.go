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
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// connectBudget bounds the wait for one monitor at start-up; they are asked side by side.
const connectBudget = 5 * time.Second

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
		// ends within connectBudget and the clean-up of what is half made.
		go func() {
			defer func() { <-limit; all.Done() }()
			if err := m.recoverPod(ctx, e.Name()); err != nil {
				m.opt.Log.Warn("pod not recovered", "dir", e.Name(), "err", err)
			}
		}()
	}
	all.Wait()
	m.sortIndex()
	var keep []string
	for _, p := range m.index.Load().podList {
		keep = append(keep, p.id)
	}
	m.sweepState()
	m.bg.Add(1)
	// ends when its budget is used up at the latest: nothing waits for what is given back.
	go func() {
		defer m.bg.Done()
		ctx, cancel := context.WithTimeout(m.life, clearBudget)
		defer cancel()
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
		if _, ok := m.index.Load().pods[e.Name()]; ok || !validID(e.Name()) {
			continue
		}
		p := newPod(m, podRecord{ID: e.Name(), Boot: m.boot}, &rt.PodSandboxConfig{}, m.opt.Handlers[0])
		ctx, cancel := context.WithTimeout(m.life, clearBudget)
		if err := p.clear(ctx); err != nil {
			m.opt.Log.Warn("ownerless pod state not removed", "pod", e.Name(), "err", err)
		}
		cancel()
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
		return errors.Join(err, recovery{p}.discard(ctx))
	}
	cfg, err := decodePodConfig(rec.Config)
	if err != nil {
		p := newPod(m, rec, &rt.PodSandboxConfig{}, m.opt.Handlers[0])
		return errors.Join(err, recovery{p}.discard(ctx))
	}
	p := newPod(m, rec, cfg, m.handlerOrGone(rec.Handler))
	if !rec.Ready && !rec.Stopped {
		return recovery{p}.discard(ctx) // building was cut short: nobody was given its id
	}
	recovery{p}.connect(ctx)
	if err := (recovery{p}).containers(ctx); err != nil {
		m.opt.Log.Warn("containers not recovered", "pod", id, "err", err)
	}
	m.update(func(x *index) { x.addPod(p) })
	recovery{p}.settle(ctx)
	return nil
}

// handlerOrGone returns the named handler; one that is no longer configured is replaced by the default, which is good
// enough to remove what is left.
func (m *Manager) handlerOrGone(name string) oci.Handler {
	h, err := m.handler(name)
	if err != nil {
		return m.opt.Handlers[0]
	}
	return h
}

// recovery brings one pod back.
type recovery struct{ p *Pod }

// discard removes a pod that nobody knows of, containers included.
func (r recovery) discard(ctx context.Context) error {
	p := r.p
	p.closing = true
	ctx, cancel := context.WithTimeout(ctx, clearBudget)
	defer cancel()
	errs := []error{r.containers(ctx)}
	for _, c := range p.m.index.Load().containersOf(p) {
		errs = append(errs, footprint{c}.clear(ctx))
		p.m.update(func(x *index) { x.dropContainer(c) })
	}
	errs = append(errs, p.clear(ctx), os.RemoveAll(p.dir()))
	return errors.Join(errs...)
}

// connect dials the monitor of a pod that was ready in this boot.
func (r recovery) connect(ctx context.Context) {
	p := r.p
	if !p.rec.Ready || p.rec.Boot != p.m.boot {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, connectBudget)
	defer cancel()
	mon, err := monitor.Connect(ctx, p.state())
	if err != nil {
		p.m.opt.Log.Warn("monitor not reached", "pod", p.id, "err", err)
		return
	}
	p.adopt(mon)
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

// recoverContainers makes the pod's containers known, or removes the half-made ones.
func (r recovery) containers(ctx context.Context) error {
	p := r.p
	entries, err := os.ReadDir(filepath.Join(p.dir(), "c"))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	alive := make(map[string]wire.Process)
	if mon := p.sup.mon.Load(); mon != nil {
		ctx, cancel := context.WithTimeout(ctx, connectBudget)
		defer cancel()
		procs, err := mon.List(ctx)
		if err != nil {
			return fmt.Errorf("ask monitor: %w", err)
		}
		for _, pr := range procs {
			alive[pr.ID] = pr
		}
	}
	var errs []error
	for _, e := range entries {
		errs = append(errs, r.container(ctx, e.Name(), alive))
	}
	return errors.Join(errs...)
}

func (r recovery) container(ctx context.Context, id string, alive map[string]wire.Process) error {
	p := r.p
	if !validID(id) {
		return fmt.Errorf("%q is not a container's directory: %w", id, fs.ErrInvalid)
	}
	var rec containerRecord
	err := load(filepath.Join(p.dir(), "c", id, "container.json"), &rec)
	if err == nil && (rec.ID != id || rec.Pod != p.id) {
		err = fmt.Errorf("record is of container %q: %w", rec.ID, fs.ErrInvalid)
	}
	if err != nil {
		rec = containerRecord{ID: id, Pod: p.id}
	}
	cfg, cerr := decodeContainerConfig(rec.Config)
	if err == nil {
		err = cerr
	}
	c := newContainer(p, rec, cfg)
	if err != nil || !rec.Created {
		// Nobody was given its id: creation was cut short, or the record is damaged.
		return errors.Join(err, footprint{c}.clear(ctx))
	}
	p.m.opt.Images.Keep(c.id, rec.Layers)
	proc, lives := alive[id]
	p.m.update(func(x *index) { x.addContainer(c) })
	settle(ctx, c, proc, lives)
	return nil
}

// settle decides what the container is now. exit.json is the truth, then the record, then the monitor's word.
func settle(ctx context.Context, c *Container, proc wire.Process, lives bool) {
	switch r := c.rec; {
	case r.StartError != "":
		c.finish(containerView{finishedAt: r.EndedAt, code: startFailed, reason: "StartError", message: r.StartError})
		return
	case r.Lost:
		c.finish(containerView{finishedAt: r.EndedAt, code: exitUnknown, reason: "Unknown"})
		return
	}
	c.catchUp(ctx)
	if c.view.Load().ended {
		return
	}
	if !lives {
		c.bury(ctx)
		return
	}
	c.show(func(v *containerView) { v.pid = proc.Pid })
	if c.rec.StartingAt != 0 && c.rec.StartedAt == 0 {
		settleStart(ctx, c)
	}
}

// settleStart finds out how far a start came that the daemon did not live to see.
func settleStart(ctx context.Context, c *Container) {
	st, err := c.pod.handler.State(ctx, c.id)
	if err != nil || st.Status != "running" {
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
