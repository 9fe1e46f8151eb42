package stream

import (
	"crypto/x509"
	"errors"
	"log/slog"
	"testing"
	"time"
)

// A token is good for a minute and one use; one that was put back is good for what is left of the minute.
func TestTokenLife(t *testing.T) {
	t.Parallel()
	now := time.Now()
	store := tokens{now: func() time.Time { return now }, max: 2, m: map[string]pending{}}
	late, err := store.add("late")
	if err != nil {
		t.Fatal(err)
	}
	once, err := store.add("once")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := store.add("more"); !errors.Is(err, ErrBusy) {
		t.Errorf("more than may be: %v", err)
	}
	p, ok := store.take(once)
	if !ok || p.request != "once" {
		t.Errorf("first use: %v, %t", p, ok)
	}
	if _, ok := store.take(once); ok {
		t.Error("second use")
	}
	now = now.Add(tokenLife - time.Second)
	store.put(once, p)
	if p, ok = store.take(once); !ok {
		t.Error("put back, and not good any more")
	}
	store.put(once, p)
	now = now.Add(2 * time.Second)
	for _, token := range []string{late, once} {
		if _, ok := store.take(token); ok {
			t.Error("good after its time")
		}
	}
	store.m["a"], store.m["b"] = pending{expires: now.Add(-1)}, pending{expires: now.Add(-1)}
	if _, err := store.add("again"); err != nil {
		t.Errorf("expired ones are in the way: %v", err)
	}
}

// A self-made certificate is its own authority, for the address, and replaced long before its end.
func TestOwnCertificate(t *testing.T) {
	t.Parallel()
	now := time.Now()
	c := &certificate{host: "192.0.2.7", log: slog.New(slog.DiscardHandler), now: func() time.Time { return now }}
	first, err := c.get(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AddCert(first.Leaf)
	for _, name := range []string{"192.0.2.7", "127.0.0.1", "::1", "localhost"} {
		if _, err := first.Leaf.Verify(x509.VerifyOptions{DNSName: name, Roots: roots, CurrentTime: now}); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	now = now.Add(ownLife/2 - time.Minute)
	if same, err := c.get(nil); err != nil || same != first {
		t.Errorf("replaced too early, %v", err)
	}
	now = now.Add(2 * time.Minute)
	next, err := c.get(nil)
	if err != nil || next == first || next.Leaf.NotAfter.Before(now.Add(ownLife/2)) {
		t.Errorf("not replaced, %v", err)
	}
}
