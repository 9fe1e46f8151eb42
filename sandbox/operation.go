package sandbox

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// operation is work that belongs to an object, not to the request that asked for it. A client's deadline ends its
// waiting, never the work; a retry joins the work in flight and gets its result.
type operation struct {
	key    string
	digest string // of the request: the same key with another request is another thing, and refused
	began  time.Time
	phase  atomic.Pointer[string]
	done   chan struct{}
	id     string // result, valid once done is closed
	err    error
}

// at names what the operation does or waits for now; the text is in every deadline error.
func (o *operation) at(phase string) { o.phase.Store(&phase) }

// wait returns the result, or an error that says what the work is waiting for when ctx ends first.
func (o *operation) wait(ctx context.Context) (string, error) {
	select {
	case <-o.done:
		return o.id, o.err
	case <-ctx.Done():
	}
	select {
	case <-o.done:
		return o.id, o.err
	default:
	}
	return "", fmt.Errorf("%s goes on, at %q for %s: %w", o.key, *o.phase.Load(), time.Since(o.began).Round(time.Millisecond), context.Cause(ctx))
}

// operations holds the work in flight by key.
type operations struct {
	mu sync.Mutex
	m  map[string]*operation
}

// request names an operation: its key, the digest of what was asked for, and how long the work itself may take.
type request struct {
	key    string
	digest string
	budget time.Duration
}

// work is the body of an operation. Its context is its own: it ends with the budget, not with the caller.
type work func(ctx context.Context, op *operation) (string, error)

// do joins the operation of this key or begins it, and waits for it as long as ctx allows.
func (o *operations) do(ctx context.Context, req request, fn work) (string, error) {
	o.mu.Lock()
	if running, ok := o.m[req.key]; ok {
		o.mu.Unlock()
		if running.digest != req.digest {
			return "", fmt.Errorf("%s: in flight with another request: %w", req.key, fs.ErrExist)
		}
		return running.wait(ctx)
	}
	run := &operation{key: req.key, digest: req.digest, began: time.Now(), done: make(chan struct{})}
	run.at("begin")
	if o.m == nil {
		o.m = make(map[string]*operation)
	}
	o.m[run.key] = run
	o.mu.Unlock()

	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), req.budget)
	// ends when fn returns: fn is bounded by its own context.
	go func() {
		defer cancel()
		run.id, run.err = fn(own, run)
		o.mu.Lock()
		delete(o.m, run.key)
		o.mu.Unlock()
		close(run.done)
	}()
	return run.wait(ctx)
}

// drain waits until no operation is in flight, or ctx ends.
func (o *operations) drain(ctx context.Context) error {
	for {
		o.mu.Lock()
		var one *operation
		for _, one = range o.m {
			break
		}
		o.mu.Unlock()
		if one == nil {
			return nil
		}
		select {
		case <-one.done:
		case <-ctx.Done():
			return fmt.Errorf("%s: %w", one.key, ctx.Err())
		}
	}
}
