package stream

import (
	"crypto/rand"
	"errors"
	"sync"
	"time"
)

// ErrBusy is returned when too many URLs were handed out and not used yet.
var ErrBusy = errors.New("too many streaming requests are waiting for their client")

const (
	tokenLife = time.Minute
	maxTokens = 1000
)

// tokens remembers requests until their client connects. A token is good for one use.
type tokens struct {
	now func() time.Time
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
	if len(t.m) >= maxTokens {
		for k, p := range t.m {
			if now.After(p.expires) {
				delete(t.m, k)
			}
		}
	}
	if len(t.m) >= maxTokens {
		return "", ErrBusy
	}
	token := rand.Text()
	t.m[token] = pending{request: request, expires: now.Add(tokenLife)}
	return token, nil
}

// take returns the request of that token once, nil when there is none or it has expired.
func (t *tokens) take(token string) any {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, ok := t.m[token]
	if !ok {
		return nil
	}
	delete(t.m, token)
	if t.now().After(p.expires) {
		return nil
	}
	return p.request
}
