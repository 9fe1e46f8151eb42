package netplugin

import (
	"context"
	"sync"
)

// keyedLock is a set of locks, one per key, that are waited for with a context. The zero value is ready.
type keyedLock struct {
	mu   sync.Mutex
	held map[string]*waiters
}

// waiters is the lock of one key: its channel holds a token while the lock is free.
type waiters struct {
	token chan struct{}
	n     int // holder and those waiting
}

// lock waits until key is free or the context ends; unlock must be called once.
func (l *keyedLock) lock(ctx context.Context, key string) (unlock func(), err error) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*waiters{}
	}
	w := l.held[key]
	if w == nil {
		w = &waiters{token: make(chan struct{}, 1)}
		w.token <- struct{}{}
		l.held[key] = w
	}
	w.n++
	l.mu.Unlock()

	leave := func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		if w.n--; w.n == 0 {
			delete(l.held, key)
		}
	}
	select {
	case <-w.token:
		return func() { w.token <- struct{}{}; leave() }, nil
	case <-ctx.Done():
		leave()
		return nil, context.Cause(ctx)
	}
}
