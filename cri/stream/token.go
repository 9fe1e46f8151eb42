package stream

import (
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"time"
)

// ErrBusy is returned when there are as many sessions or unused URLs as there may be.
var ErrBusy = errors.New("streaming is at its limit")

// tokenLife is how long a client has to connect.
const tokenLife = time.Minute

// tokens remembers requests until their client connects. A token is good for one use.
type tokens struct {
	now func() time.Time
	max int
	mu  sync.Mutex
	m   map[string]pending
}

type pending struct {
	request any
	expires time.Time
}

// add keeps the request and returns its token, or ErrBusy.
func (t *tokens) add(request any) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.now()
	if len(t.m) >= t.max {
		for k, p := range t.m {
			if now.After(p.expires) {
				delete(t.m, k)
			}
		}
	}
	if len(t.m) >= t.max {
		return "", fmt.Errorf("%w: %d requests wait for their client, as many as may", ErrBusy, t.max)
	}
	token := rand.Text()
	t.m[token] = pending{request: request, expires: now.Add(tokenLife)}
	return token, nil
}

// take returns the request of that token, once; ok is false when there is none or it has expired.
func (t *tokens) take(token string) (p pending, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok = t.m[token]
	delete(t.m, token)
	return p, ok && !t.now().After(p.expires)
}

// put gives a token back that was taken and not used. It expires when it would have.
func (t *tokens) put(token string, p pending) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.m[token] = p
}
