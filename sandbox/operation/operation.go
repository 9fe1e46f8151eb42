// Package operation is work that belongs to an object, not to the request that asked for it.
//
// A client's deadline ends its waiting, never the work; a retry joins the work in flight and gets its result. Every
// operation says at any time what it does or waits for, and that text is in every deadline error. There is no
// reservation of names: a name is in use as long as work for it is in flight or its object exists.
//
// Nothing here knows what the work is about.
package operation

import (
	"context"
	"fmt"
	"io/fs"
	"sync"
	"sync/atomic"
	"time"
)

// Operation is one piece of work in flight.
type Operation struct {
	key    string
	digest string // of the request: the same key with another request is another thing, and refused
	began  time.Time
	phase  atomic.Pointer[string]
	done   chan struct{}
	id     string // result, valid once done is closed
	err    error
}

// At names what the operation does or waits for now; the text is in every deadline error. A nil Operation is work that
// nobody waits for.
func (o *Operation) At(phase string) {
	if o != nil {
		o.phase.Store(&phase)
	}
}

// wait returns the result, or an error that says what the work is waiting for when ctx ends first.
func (o *Operation) wait(ctx context.Context) (string, error) {
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

// Set holds the work in flight by key. The zero value is ready.
type Set struct {
	mu sync.Mutex
	m  map[string]*Operation
}

// Request names an operation: its key, the digest of what was asked for (the same key with another digest is another
// thing, and refused), and how long the work itself may take.
type Request struct {
	Key    string
	Digest string
	Budget time.Duration
}

// Work is the body of an operation. Its context is its own: it ends with the budget, not with the caller.
type Work func(ctx context.Context, op *Operation) (string, error)

// Do joins the operation of this key or begins it, and waits for it as long as ctx allows.
func (o *Set) Do(ctx context.Context, req Request, fn Work) (string, error) {
	o.mu.Lock()
	if running, ok := o.m[req.Key]; ok {
		o.mu.Unlock()
		if running.digest != req.Digest {
			return "", fmt.Errorf("%s: in flight with another request: %w", req.Key, fs.ErrExist)
		}
		return running.wait(ctx)
	}
	run := &Operation{key: req.Key, digest: req.Digest, began: time.Now(), done: make(chan struct{})}
	run.At("begin")
	if o.m == nil {
		o.m = make(map[string]*Operation)
	}
	o.m[run.key] = run
	o.mu.Unlock()

	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), req.Budget)
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

// Drain waits until no operation is in flight, or ctx ends.
func (o *Set) Drain(ctx context.Context) error {
	for {
		o.mu.Lock()
		var one *Operation
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
