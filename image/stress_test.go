package image_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-runtime/berth/image"
)

// TestParallelRemove: five at once, all succeed, and the image is gone at once (critest does this).
func TestParallelRemove(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("f", "x")))
	s := open(t)
	img := pull(t, s, r.host()+"/a:1")
	var wg sync.WaitGroup
	for range 5 {
		wg.Go(func() {
			if err := s.Remove(context.Background(), img.ID); err != nil {
				t.Error(err)
			}
			if _, err := s.Resolve(img.ID); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("still there: %v", err)
			}
		})
	}
	wg.Wait()
}

// TestStress: pulls, removals, holds and collections of images with common layers at the same time. Whoever holds an image has all its
// layers; in the end nothing is left.
func TestStress(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	common := tarOf(reg("common", "c"))
	for i := range 4 {
		r.image(fmt.Sprintf("i%d:1", i), map[string]any{"User": fmt.Sprint(i)}, common, tarOf(reg("own", fmt.Sprint(i))))
	}
	root := t.TempDir()
	s := openAt(t, root)
	if err := s.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	for w := range 8 {
		wg.Go(func() {
			owner := fmt.Sprint("w", w)
			for n := range 12 {
				name := fmt.Sprintf("%s/i%d:1", r.host(), (w+n)%4)
				if _, err := s.Pull(context.Background(), image.PullRequest{Ref: name}); err != nil {
					t.Error(err)
				}
				img, err := s.Hold(name, owner)
				if err != nil && !errors.Is(err, fs.ErrNotExist) { // somebody removed it
					t.Error(err)
				}
				if err == nil && n%2 == w%2 {
					if err := s.Remove(context.Background(), name); err != nil {
						t.Error(err)
					}
				}
				for _, l := range img.Layers {
					if _, err := os.Stat(l); err != nil {
						t.Errorf("held: %v", err)
					}
				}
				s.List()
				if err := errors.Join(s.Release(owner), s.Collect(context.Background())); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	for _, i := range s.List() {
		if err := s.Remove(context.Background(), i.ID); err != nil {
			t.Error(err)
		}
	}
	if u, _ := s.Usage(); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("usage of nothing: %+v", u)
	}
	leftovers(t, s, root)
}

// TestLeaks: pulls that work, fail and are given up leave no descriptor, goroutine or child behind. Not parallel: it counts the process.
func TestLeaks(t *testing.T) {
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("f", strings.Repeat("x", 1<<20))), tarOf(reg("g", "y")))
	r.image("bad:1", nil, tarOf(reg("f", strings.Repeat("x", 1<<18)), file{}))
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/slow/blobs") {
			time.Sleep(20 * time.Millisecond)
		}
		return false
	}
	s := open(t)
	if err := s.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	count := func() (int, int, int) {
		fds, _ := os.ReadDir("/proc/self/fd")
		kids, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid()))
		return len(fds), runtime.NumGoroutine(), len(strings.Fields(string(kids)))
	}
	round := func() {
		for i, name := range []string{"a:1", "bad:1", "none:1", "a:1", "a:1"} {
			ctx, cancel := context.WithTimeout(context.Background(), []time.Duration{time.Minute, time.Minute, time.Minute, 3 * time.Millisecond, 10 * time.Millisecond}[i])
			_, _ = s.Pull(ctx, image.PullRequest{Ref: r.host() + "/" + name})
			cancel()
			if err := s.Remove(context.Background(), r.host()+"/"+name); err != nil {
				t.Error(err)
			}
		}
	}
	round()
	time.Sleep(300 * time.Millisecond)
	f0, g0, k0 := count()
	for range 10 {
		round()
	}
	var f, g, k int
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if f, g, k = count(); f <= f0+2 && g <= g0+4 && k <= k0 {
			return
		}
		time.Sleep(100 * time.Millisecond)
	}
	t.Errorf("descriptors %d, then %d; goroutines %d, then %d; children %d, then %d", f0, f, g0, g, k0, k)
}
