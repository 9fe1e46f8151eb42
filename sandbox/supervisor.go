package sandbox

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// supervisor is a pod's tie to its monitor, and to those who wait for its reports.
type supervisor struct {
	mon     atomic.Pointer[monitor.Monitor]
	sought  atomic.Pointer[chan struct{}] // while a monitor that lives and did not answer is dialled; closed when that is over
	mu      sync.Mutex
	waiters map[string]chan wire.Exit // of execs, by spawn id
}

// get returns the pod's monitor, or an error when there is none: stopped, or died. One that is being dialled is waited
// for as long as ctx allows.
func (s *supervisor) get(ctx context.Context) (*monitor.Monitor, error) {
	if sought := s.sought.Load(); sought != nil {
		select {
		case <-*sought:
		case <-ctx.Done():
			return nil, fmt.Errorf("the pod's monitor lives and does not answer: %w", ctx.Err())
		}
	}
	return s.mon.Load(), s.present()
}

// present returns an error when the pod has no monitor, or none that has answered.
func (s *supervisor) present() error {
	if s.mon.Load() == nil {
		return fmt.Errorf("the pod has no monitor: %w", ErrNotReady)
	}
	return nil
}

// await registers interest in the exit of an exec. The channel has room for the one report and is closed when the
// monitor is lost.
func (s *supervisor) await(id string) chan wire.Exit {
	ch := make(chan wire.Exit, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiters == nil {
		s.waiters = make(map[string]chan wire.Exit)
	}
	s.waiters[id] = ch
	return ch
}

func (s *supervisor) unawait(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.waiters, id)
}

// deliver hands a report to whoever waits for it.
func (s *supervisor) deliver(e wire.Exit) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if ch := s.waiters[e.ID]; ch != nil {
		delete(s.waiters, e.ID)
		ch <- e
	}
}

// dismiss tells all who wait that no report will come.
func (s *supervisor) dismiss() {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ch := range s.waiters {
		close(ch)
	}
	s.waiters = nil
}

// adopt makes mon the pod's monitor and follows its reports.
func (p *Pod) adopt(mon *monitor.Monitor) {
	p.sup.mon.Store(mon)
	p.m.bg.Add(1)
	// ends when the connection to the monitor ends.
	go func() {
		defer p.m.bg.Done()
		for e := range mon.Exits() {
			if c, ok := p.m.index.Load().ctrs[e.ID]; ok {
				c.ended(e)
			} else {
				p.sup.deliver(e)
			}
		}
		p.lost(mon)
	}()
}

// patience is how long a monitor may take to answer before the end of its pod goes on without it.
const patience = 10 * time.Second

// condemn kills a monitor that does not answer, so that the pod can be ended: it is stopped, its disk hangs, or it is
// broken. Its containers are killed by cgroup; how they ended nobody can tell then.
func (p *Pod) condemn(ctx context.Context) error {
	if held, err := monitor.Held(p.state()); err != nil || !held {
		return nil // whoever needs it finds out
	}
	ask, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	mon := p.sup.mon.Load()
	var err error
	if mon != nil {
		_, err = mon.List(ask)
	} else if mon, err = monitor.Connect(ask, p.state()); err == nil {
		mon.Close()
	}
	if err == nil || ask.Err() == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	p.m.opt.Log.Warn("monitor does not answer and is killed, because its pod is stopped", "pod", p.id, "err", err)
	if err := monitor.Kill(ctx, p.state()); err != nil {
		return err
	}
	if mon := p.sup.mon.Swap(nil); mon != nil {
		mon.Close()
	}
	p.bury(ctx)
	return nil
}

// emit tells the subscribers what happened to an object of the pod, with the statuses of that moment.
func (p *Pod) emit(kind rt.ContainerEventType, id string) {
	p.announce(kind, id, false)
}

// announce is emit; with found, for what was noticed when there was no daemon, it is kept for the first to subscribe.
func (p *Pod) announce(kind rt.ContainerEventType, id string, found bool) {
	if !found && !p.m.events.Interested() {
		return
	}
	e := &rt.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: p.status()}
	for _, c := range p.m.index.Load().containersOf(p) {
		e.ContainersStatuses = append(e.ContainersStatuses, c.status())
	}
	if found {
		p.m.events.Keep(e)
	} else {
		p.m.events.Publish(e)
	}
}
