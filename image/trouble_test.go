package image_test

import (
	"context"
	"errors"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/image/layer"
)

// TestDeadline: the context's error, at once, whatever hangs; nothing stays.
func TestDeadline(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("a", "a")))
	var hang atomic.Value
	hang.Store("")
	release := make(chan struct{})
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if h := hang.Load().(string); h != "" && strings.Contains(q.URL.Path, h) {
			if h == "/blobs/" {
				w.Header().Set("Content-Length", "1000000")
				w.WriteHeader(200)
				w.(http.Flusher).Flush()
			}
			select {
			case <-q.Context().Done():
			case <-release:
			}
			return true
		}
		return false
	}
	defer close(release)
	root := t.TempDir()
	s := openAt(t, root)
	for _, h := range []string{"/manifests/", "/blobs/", ""} {
		hang.Store(h)
		limit := 150 * time.Millisecond
		if h == "" {
			limit = time.Nanosecond
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		start := time.Now()
		_, err := s.Pull(ctx, image.PullRequest{Ref: r.host() + "/a:1"})
		cancel()
		if took := time.Since(start); !errors.Is(err, context.DeadlineExceeded) || took > time.Minute {
			t.Errorf("hanging at %q: %v after %s", h, err, took)
		}
	}
	hang.Store("")
	pull(t, s, r.host()+"/a:1")
	leftovers(t, s, root)
}

func TestStall(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	layer_ := tarOf(reg("a", strings.Repeat("a", 1<<20)))
	r.image("a:1", nil, layer_)
	blob := digest.FromBytes(gz(layer_)).String()
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if !strings.HasSuffix(q.URL.Path, blob) {
			return false
		}
		w.Header().Set("Content-Length", "1000000")
		for q.Context().Err() == nil { // a trickle is no progress
			if _, err := w.Write([]byte("x")); err != nil {
				break
			}
			w.(http.Flusher).Flush()
			time.Sleep(20 * time.Millisecond)
		}
		return true
	}
	s := open(t, func(o *image.Options) { o.ProgressTimeout = 300 * time.Millisecond })
	start := time.Now()
	err := pullErr(t, s, r.host()+"/a:1")
	if took := time.Since(start); !errors.Is(err, image.ErrRegistryUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable") || took > time.Minute {
		t.Errorf("%v after %s", err, took)
	}
}

// TestFlaky: a server that cuts each answer after a while, and errs now and then, still gives the image.
func TestFlaky(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	content := make([]byte, 3<<20)
	for i := range content {
		content[i] = byte(i * i >> 8)
	}
	layer_ := tarOf(reg("a", string(content)))
	packed := r.blob(layer_, ocispec.MediaTypeImageLayer)
	r.tag("a:1", r.assemble(nil, []digest.Digest{packed.Digest}, []ocispec.Descriptor{packed}))
	var n atomic.Int64
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Method == "HEAD" && n.Add(1) == 1 {
			w.WriteHeader(http.StatusBadGateway)
			return true
		}
		if strings.HasSuffix(q.URL.Path, packed.Digest.String()) {
			w = &cutter{ResponseWriter: w, left: 1 << 20}
			serve(w, q, layer_)
			return true
		}
		return false
	}
	s := open(t)
	img := pull(t, s, r.host()+"/a:1")
	if b, err := img.ReadFile("/a", 4<<20); err != nil || string(b) != string(content) {
		t.Errorf("%d bytes, %v", len(b), err)
	}
}

func serve(w http.ResponseWriter, q *http.Request, content []byte) {
	defer func() {
		if recover() != nil {
			panic(http.ErrAbortHandler)
		}
	}()
	http.ServeContent(w, q, "", time.Time{}, strings.NewReader(string(content)))
}

// cutter breaks the connection after so many bytes.
type cutter struct {
	http.ResponseWriter
	left int
}

func (c *cutter) Write(p []byte) (int, error) {
	if len(p) > c.left {
		c.ResponseWriter.Write(p[:c.left])
		c.ResponseWriter.(http.Flusher).Flush()
		panic("cut")
	}
	c.left -= len(p)
	return c.ResponseWriter.Write(p)
}

func TestUnavailable(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	s := open(t)
	if err := pullErr(t, s, r.host()+"/missing:1"); !errors.Is(err, fs.ErrNotExist) || errors.Is(err, image.ErrRegistryUnavailable) {
		t.Errorf("missing: %v", err)
	}
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	}
	if err := pullErr(t, s, r.host()+"/a:1"); !errors.Is(err, image.ErrRegistryUnavailable) || !strings.HasPrefix(err.Error(), "RegistryUnavailable: ") {
		t.Errorf("503: %v", err)
	}
	r.Close()
	if err := pullErr(t, s, r.host()+"/a:1"); !errors.Is(err, image.ErrRegistryUnavailable) {
		t.Errorf("closed: %v", err)
	}
}

// TestLimits: a bomb is refused, and the next pull works.
func TestLimits(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("bomb:1", nil, tarOf(reg("zeros", strings.Repeat("\x00", 8<<20))))
	r.image("good:1", nil, tarOf(reg("f", "x")))
	root := t.TempDir()
	s := openAt(t, root, func(o *image.Options) { o.Limits = layer.Limits{Bytes: 1 << 20} })
	if err := pullErr(t, s, r.host()+"/bomb:1"); !strings.Contains(err.Error(), "limit of bytes") {
		t.Errorf("bomb: %v", err)
	}
	pull(t, s, r.host()+"/good:1")
	leftovers(t, s, root)
}
