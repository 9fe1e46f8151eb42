package sandbox

import (
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
	mu      sync.Mutex
	waiters map[string]chan wire.Exit // of execs, by spawn id
}

// get returns the pod's monitor, or an error when there is none: stopped, or died.
func (s *supervisor) get() (*monitor.Monitor, error) {
	if mon := s.mon.Load(); mon != nil {
		return mon, nil
	}
	return nil, fmt.Errorf("the pod has no monitor: %w", ErrNotReady)
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

// emit tells the subscribers what happened to an object of the pod, with the statuses of that moment.
func (p *Pod) emit(kind rt.ContainerEventType, id string) {
	if !p.m.events.Interested() {
		return
	}
	e := &rt.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: p.status()}
	for _, c := range p.m.index.Load().containersOf(p) {
		e.ContainersStatuses = append(e.ContainersStatuses, c.status())
	}
	p.m.events.Publish(e)
}
