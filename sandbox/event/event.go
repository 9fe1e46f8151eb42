// Package event hands the CRI's container events to any number of subscribers.
//
// Publishing never waits for a subscriber; one that lags too far behind is cut off and has to list again. On a stream
// time never goes backwards. What an event says is the publisher's business;
// nothing of pods may live here.
package event

import (
	"context"
	"sync"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxBacklog bounds the events a subscriber may lag behind; one that lags further is cut off and has to list again.
const maxBacklog = 4096

// Broadcaster hands every event to every subscriber. Publishing never waits for a subscriber.
// The zero value is ready.
type Broadcaster struct {
	mu   sync.Mutex
	subs map[*subscriber]struct{}
	last int64
	kept []*rt.ContainerEventResponse
}

type subscriber struct {
	queue []*rt.ContainerEventResponse
	wake  chan struct{} // capacity 1
	cut   bool
}

// Publish stamps the event so that time never goes backwards on a stream, and queues it.
func (b *Broadcaster) Publish(e *rt.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stamp(e)
	for s := range b.subs {
		if len(s.queue) >= maxBacklog {
			s.cut = true
		} else {
			s.queue = append(s.queue, e)
		}
		select {
		case s.wake <- struct{}{}:
		default:
		}
	}
}

// stamp is called with mu held.
func (b *Broadcaster) stamp(e *rt.ContainerEventResponse) {
	e.CreatedAt = max(e.CreatedAt, b.last+1)
	b.last = e.CreatedAt
}

// Keep holds an event for the first subscriber: it tells of something that happened while there was no stream to tell
// it on. Those beyond a subscriber's backlog are dropped, the newest first: whoever subscribes late lists anyway.
func (b *Broadcaster) Keep(e *rt.ContainerEventResponse) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if len(b.kept) < maxBacklog/2 {
		b.stamp(e)
		b.kept = append(b.kept, e)
	}
}

// Interested reports whether anybody listens: composing an event costs a status of each container of the pod.
func (b *Broadcaster) Interested() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.subs) > 0
}

// take empties the subscriber's queue.
func (b *Broadcaster) take(s *subscriber) (q []*rt.ContainerEventResponse, cut bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	q, s.queue = s.queue, nil
	return q, s.cut
}

// Subscribe returns the events from now on (CRI GetContainerEvents); for the first subscriber, what was kept comes before. The channel is closed when ctx ends, or when the
// reader lagged more than a few thousand events behind.
func (b *Broadcaster) Subscribe(ctx context.Context) <-chan *rt.ContainerEventResponse {
	s := &subscriber{wake: make(chan struct{}, 1)}
	b.mu.Lock()
	s.queue, b.kept = b.kept, nil
	if b.subs == nil {
		b.subs = make(map[*subscriber]struct{})
	}
	b.subs[s] = struct{}{}
	b.mu.Unlock()
	out := make(chan *rt.ContainerEventResponse)
	// ends when ctx ends or the reader was cut off.
	go func() {
		defer close(out)
		defer func() {
			b.mu.Lock()
			delete(b.subs, s)
			b.mu.Unlock()
		}()
		for {
			q, cut := b.take(s)
			for _, e := range q {
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			if cut {
				return
			}
			select {
			case <-s.wake:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}
