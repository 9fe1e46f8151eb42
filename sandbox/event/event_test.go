package event_test

import (
	"context"
	"fmt"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/event"
)

func TestEventsReachEverySubscriber(t *testing.T) {
	t.Parallel()
	b := new(event.Broadcaster)
	ctx, cancel := context.WithCancel(context.Background())
	a, other := b.Subscribe(ctx), b.Subscribe(ctx)
	const n = 1000
	for i := range n {
		b.Publish(&rt.ContainerEventResponse{ContainerId: fmt.Sprint(i), CreatedAt: int64(n - i)})
	}
	for _, ch := range []<-chan *rt.ContainerEventResponse{a, other} {
		last := int64(0)
		for i := range n {
			e := <-ch
			if e.ContainerId != fmt.Sprint(i) || e.CreatedAt <= last {
				t.Fatalf("event %d: id %s at %d after %d", i, e.ContainerId, e.CreatedAt, last)
			}
			last = e.CreatedAt
		}
	}
	cancel()
	for range a {
	}
}

// A subscriber that never reads costs a bounded queue, and as much again in the hand of its goroutine, and nobody's time.
func TestEventsCutOffLaggard(t *testing.T) {
	t.Parallel()
	b := new(event.Broadcaster)
	ch := b.Subscribe(t.Context())
	for range 10000 {
		b.Publish(&rt.ContainerEventResponse{})
	}
	n := 0
	for range ch {
		n++
	}
	if n > 2*4096 {
		t.Fatalf("%d events were kept", n)
	}
}
