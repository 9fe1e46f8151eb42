package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"sync"
	"time"

	"github.com/berth-runtime/berth/sandbox/operation"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/ns"
)

const stopBudget = 10 * time.Minute

// Stop answers StopPodSandbox: every container is killed, then the network is given back. Called again it finishes
// what an earlier call could not.
func (p *Pod) Stop(ctx context.Context) error {
	_, err := p.m.ops.Do(ctx, operation.Request{Key: "stop pod " + p.id, Budget: stopBudget}, func(ctx context.Context, op *operation.Operation) (string, error) {
		if err := p.stop(ctx, op); err != nil {
			return "", fmt.Errorf("stop pod %s: %w", short(p.id), err)
		}
		return p.id, nil
	})
	return err
}

func (p *Pod) stop(ctx context.Context, op *operation.Operation) error {
	p.mu.Lock()
	first := !p.closing
	p.closing = true
	p.mu.Unlock()
	if first {
		p.cancel()
	}
	op.At("wait for creations in flight")
	p.inflight.Wait()
	was := false
	if err := p.change(func(r *podRecord) { was, r.Ready, r.Stopped, r.IPs = r.Ready, false, true, nil }); err != nil {
		// Stopping is how a full disk gets room. A daemon that finds the old record finds no monitor either.
		p.m.opt.Log.Warn("pod record not saved", "pod", p.id, "err", err)
	}
	if was {
		p.emit(rt.ContainerEventType_CONTAINER_STOPPED_EVENT, p.id)
	}
	op.At("ask the monitor")
	if err := p.condemn(ctx); err != nil {
		return err
	}
	op.At("kill containers")
	if err := killContainers(ctx, p); err != nil {
		return err
	}
	return p.clear(ctx, op)
}

// killContainers ends all containers of the pod, side by side, and waits for their ends and until their cgroups are gone:
// kubelet removes the one above them then.
func killContainers(ctx context.Context, p *Pod) error {
	ctrs := p.m.index.Load().containersOf(p)
	errs := make(chan error, len(ctrs))
	for _, c := range ctrs {
		// ends when the container has ended, or with ctx.
		go func() {
			var err error
			if !c.view.Load().ended {
				err = c.kill(ctx)
			}
			if err == nil {
				err = (footprint{c}).giveBack(ctx)
			}
			errs <- err
		}()
	}
	var all []error
	for range ctrs {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

// clear gives back everything the pod has but its record and its ended containers, from whatever state it is in:
// monitor and whatever it still has below it, network, namespaces, cgroup. Idempotent; what is gone is no error.
func (p *Pod) clear(ctx context.Context, op *operation.Operation) error {
	p.gauges.close()
	op.At("end monitor")
	if err := endMonitor(ctx, p); err != nil {
		return fmt.Errorf("end monitor: %w", err)
	}
	op.At("clear away half-made containers")
	if err := clearRuins(ctx, p); err != nil {
		return err
	}
	op.At("detach network")
	netns := p.netns()
	if netns != "" && !exists(netns) {
		netns = ""
	}
	if err := p.m.opt.Network.Detach(ctx, p.id, netns); err != nil {
		return fmt.Errorf("detach network: %w", err)
	}
	op.At("remove namespaces and cgroup")
	if err := ns.Unpin(p.nsDir(), p.m.netnsPath(p.id)); err != nil {
		return fmt.Errorf("unpin namespaces: %w", err)
	}
	if err := clearCgroup(ctx, p); err != nil {
		return fmt.Errorf("remove pod cgroup: %w", err)
	}
	if err := p.m.roots().Remove(p.id); err != nil {
		return err
	}
	return removeAll(p.state())
}

// clearRuins takes another try at the containers that could neither be made nor cleared away.
func clearRuins(ctx context.Context, p *Pod) error {
	p.mu.Lock()
	ruins := p.ruins
	p.ruins = nil
	p.mu.Unlock()
	var errs []error
	for _, c := range ruins {
		if err := (footprint{c}).clear(ctx); err != nil {
			errs = append(errs, fmt.Errorf("clear container %s: %w", short(c.id), err))
			leave(p, c)
		}
	}
	return errors.Join(errs...)
}

// leave notes a container that nobody knows of and that is not cleared away yet: the pod's end takes care of it.
func leave(p *Pod, c *Container) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ruins = append(p.ruins, c)
}

// endMonitor ends the monitor and, through it, whatever of the pod still runs.
func endMonitor(ctx context.Context, p *Pod) error {
	mon := p.sup.mon.Load()
	if mon == nil {
		var err error
		if mon, err = monitor.Connect(ctx, p.state()); errors.Is(err, fs.ErrNotExist) || err != nil && dead(p.state()) {
			return nil
		} else if err != nil {
			return err
		}
	}
	err := mon.Shutdown(ctx)
	mon.Close()
	p.sup.mon.Store(nil)
	if err != nil && dead(p.state()) {
		return nil // it died under our hands: what counts is whether it lives
	}
	return err
}

// dead reports whether the monitor's lock is free, for good. A child of ours that another goroutine has forked and that
// has not reached its exec yet holds a copy of every descriptor, the lock's too: a moment later it does not.
func dead(dir string) bool {
	for range 50 {
		if held, err := monitor.Held(dir); err == nil && !held {
			return true
		}
		time.Sleep(10 * time.Millisecond)
	}
	return false
}

// clearCgroup removes the pod's cgroup if it is ours. A parent that others gave is theirs to remove.
func clearCgroup(ctx context.Context, p *Pod) error {
	if !ownsParent(p) || p.m.opt.SystemdCgroup {
		return nil
	}
	g, err := cgroup.Open(p.rec.Parent)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if others := p.m.index.Load().podsIn(p.rec.Parent); len(others) > 0 {
		// The last one removes it, also one that found it there because of a pod nobody lists.
		for _, o := range others {
			if !ownsParent(o) {
				if err := o.change(func(r *podRecord) { r.OwnParent = true }); err != nil {
					p.m.opt.Log.Warn("pod record not saved", "pod", o.id, "err", err)
				}
			}
		}
		return nil
	}
	if err := g.Remove(ctx); err != nil {
		return err
	}
	p.m.made.Delete(p.rec.Parent)
	if above, err := cgroup.Open(defaultParent); err == nil && strings.HasPrefix(p.rec.Parent, defaultParent+"/") {
		above.Prune()
	}
	return nil
}

// ownsParent reports whether the cgroup above the pod's containers is ours to remove.
func ownsParent(p *Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.rec.OwnParent
}

// podsIn returns the ready pods that have this cgroup parent.
func (x *index) podsIn(parent string) []*Pod {
	var out []*Pod
	for _, p := range x.podList {
		if p.rec.Parent == parent && p.view.Load().ready {
			out = append(out, p)
		}
	}
	return out
}

// Remove answers RemovePodSandbox: the pod is stopped first if it was not, then its containers and its record go.
func (p *Pod) Remove(ctx context.Context) error {
	_, err := p.m.ops.Do(ctx, operation.Request{Key: "remove pod " + p.id, Budget: removeBudget}, func(ctx context.Context, op *operation.Operation) (string, error) {
		if err := p.remove(ctx, op); err != nil {
			return "", fmt.Errorf("remove pod %s: %w", short(p.id), err)
		}
		return p.id, nil
	})
	return err
}

func (p *Pod) remove(ctx context.Context, op *operation.Operation) error {
	if err := p.stop(ctx, op); err != nil {
		return err
	}
	op.At("remove containers")
	for _, c := range p.m.index.Load().containersOf(p) {
		if err := c.Remove(ctx); err != nil {
			return err
		}
	}
	op.At("remove record")
	p.emit(rt.ContainerEventType_CONTAINER_DELETED_EVENT, p.id)
	if err := removeAll(p.dir()); err != nil {
		return err
	}
	p.m.update(func(x *index) { x.dropPod(p) })
	return nil
}

// lost handles the end of the connection to the monitor. If that was not our doing the monitor has died, and with it
// the pod: its containers have lost the parent that would tell how they end.
func (p *Pod) lost(mon *monitor.Monitor) {
	p.sup.dismiss()
	p.mu.Lock()
	closing := p.closing
	p.mu.Unlock()
	if closing || p.m.life.Err() != nil || !p.sup.mon.CompareAndSwap(mon, nil) {
		return
	}
	ctx, cancel := context.WithTimeout(p.m.life, clearBudget)
	defer cancel()
	p.bury(ctx)
}

// bury ends a pod whose monitor is dead: its containers are killed by cgroup and marked, and it stops being ready.
func (p *Pod) bury(ctx context.Context) {
	var all sync.WaitGroup
	for _, c := range p.m.index.Load().containersOf(p) {
		all.Go(func() { c.bury(ctx) }) // ends when its container is dead, or ctx
	}
	all.Wait()
	p.mu.Lock()
	was := p.rec.Ready
	p.mu.Unlock()
	if !was {
		return // still being built, or stopped: whoever does that sees that the monitor is gone
	}
	// Stopped, for the next daemon takes a pod that is neither for one whose making was cut short, and removes it.
	if err := p.change(func(r *podRecord) { r.Ready, r.Stopped = false, true }); err != nil {
		p.m.opt.Log.Warn("pod record not saved", "pod", p.id, "err", err)
	}
	p.emit(rt.ContainerEventType_CONTAINER_STOPPED_EVENT, p.id)
}

// witnessBudget bounds the wait for the kernel's word on an end, which comes when the orphan is reaped by the node's init.
const witnessBudget = 5 * time.Second

// bury ends a container whose monitor is dead, for nobody would read its output any more. What the monitor wrote before it
// died is the truth; without that the kernel is asked (Linux 6.15).
func (c *Container) bury(ctx context.Context) {
	c.catchUp(ctx)
	if c.view.Load().ended {
		return
	}
	witness := c.seen.Load()
	byItself := witness.Ended()
	if err := (footprint{c}).killGroup(ctx); err != nil {
		c.m.opt.Log.Warn("container of a dead monitor not killed", "container", c.id, "err", err)
	}
	ctx, cancel := context.WithTimeout(ctx, witnessBudget)
	defer cancel()
	x, ok := witness.Exit(ctx)
	if !ok {
		fail(c, unseen(), func(r *containerRecord) { r.Lost = true })
		return
	}
	x.FinishedAt = time.Now().UnixNano()
	if g, err := (footprint{c}).cgroup(); err == nil && byItself {
		d, err := cgroup.DetailOf(g)
		x.OOMKilled = err == nil && d.OOMKills > 0
	}
	fail(c, seen(x), func(r *containerRecord) { r.Seen = &x })
}

// seen is an end that the kernel told of; unseen one of which nothing is known, in containerd's words: kubelet's own
// ContainerStatusUnknown is for containers that are not listed any more.
func seen(x wire.Exit) containerView {
	end := endOf(x)
	end.message = "the pod's monitor died: how the container ended is known from the kernel"
	return end
}

func unseen() containerView {
	return containerView{code: exitUnknown, reason: "Unknown", message: "the pod's monitor died: how the container ended is not known"}
}
