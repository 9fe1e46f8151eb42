package image

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/berth-runtime/berth/image/layer"
	"github.com/berth-runtime/berth/image/registry"
)

// job is one layer being unpacked for all who wait for it.
type job struct {
	done   chan struct{}
	err    error
	users  map[string]bool // who gets a reference when it is done
	cancel context.CancelFunc
}

// ensure makes a layer present and referenced by user. If somebody is at it already, their result is shared; if they fail where user might
// not (another credential, another mirror), user tries. run fills an empty staging directory.
func (l *layers) ensure(ctx context.Context, user, key string, run func(ctx context.Context, dir string) (*slot, error)) error {
	for {
		l.mu.Lock()
		if s := l.all[key]; s != nil && !s.bad {
			l.refer(user, []string{key})
			l.mu.Unlock()
			return nil
		}
		j := l.jobs[key]
		mine := j == nil
		if mine {
			j = l.start(key, run)
		}
		j.users[user] = true
		l.mu.Unlock()
		select {
		case <-j.done:
			if j.err == nil || mine {
				return j.err
			}
		case <-ctx.Done():
			l.leave(j, user)
			return ctx.Err()
		}
	}
}

// leave stops waiting for a job; the last to leave ends it.
func (l *layers) leave(j *job, user string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(j.users, user)
	if len(j.users) == 0 {
		j.cancel()
	}
}

// start begins a job. mu is held. The job has a context of its own: it belongs to all who wait for it.
func (l *layers) start(key string, run func(ctx context.Context, dir string) (*slot, error)) *job {
	ctx, cancel := context.WithCancel(context.Background())
	j := &job{done: make(chan struct{}), users: map[string]bool{}, cancel: cancel}
	l.jobs[key] = j
	l.serial++
	dir := filepath.Join(l.staging(), fmt.Sprintf("%s.%d", key, l.serial))
	// ends when the layer is unpacked, an error is found, or the last waiter has left
	go func() {
		defer cancel()
		s, err := unpackInto(ctx, dir, run)
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.jobs, key)
		j.err = err
		if err == nil {
			s.key, s.at = key, dir
			l.put(s)
			for u := range j.users {
				l.refer(u, []string{key})
			}
			if s.refs == 0 {
				j.err = errors.Join(context.Canceled, l.free([]string{key}))
			}
		}
		close(j.done)
	}()
	return j
}

// unpackInto runs the work in a new directory, and removes the directory if it fails.
func unpackInto(ctx context.Context, dir string, run func(ctx context.Context, dir string) (*slot, error)) (*slot, error) {
	err := os.Mkdir(dir, 0o700)
	if err == nil {
		err = os.Mkdir(filepath.Join(dir, "fs"), 0o755)
	}
	if err != nil {
		return nil, err
	}
	s, err := run(ctx, dir)
	if err != nil {
		return nil, errors.Join(err, os.RemoveAll(dir))
	}
	return s, nil
}

var errStalled = errors.New("no progress")

// fetcher brings one layer from a registry into dir/fs.
type fetcher struct {
	opts  *Options
	repo  *registry.Repository
	layer registry.Layer
	dir   string
}

func (f fetcher) fetch(ctx context.Context) (*slot, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	moved := &atomic.Int64{}
	// ends when the layer is done: cancel follows
	go watch(ctx, moved, f.opts.ProgressTimeout, cancel)
	res, err := f.stream(ctx, moved)
	if err != nil {
		if cause := context.Cause(ctx); errors.Is(cause, errStalled) {
			return nil, fmt.Errorf("%w in %s after %d bytes: %w", errStalled, f.opts.ProgressTimeout, moved.Load(), registry.ErrUnavailable)
		}
		return nil, err
	}
	sl := &slot{key: key(f.layer.DiffID.String()), at: f.dir, res: res}
	return sl, sl.save()
}

// trickle is how many bytes, packed and plain, a layer must move in one progress timeout: a byte now and then is not
// progress.
const trickle = 64 << 10

// watch cancels what has not moved for a while.
func watch(ctx context.Context, moved *atomic.Int64, timeout time.Duration, cancel context.CancelCauseFunc) {
	t := time.NewTicker(timeout)
	defer t.Stop()
	for last := int64(0); ; {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
		}
		now := moved.Load()
		if now-last < trickle {
			cancel(errStalled)
			return
		}
		last = now
	}
}

// stream is the pipeline: registry -> digest -> (read-ahead) -> decompress -> digest -> child.
func (f fetcher) stream(ctx context.Context, moved *atomic.Int64) (layer.Result, error) {
	l := f.layer
	ctx, cancel := context.WithCancel(ctx)
	body, err := f.repo.Blob(ctx, l.Blob)
	if err != nil {
		cancel()
		return layer.Result{}, err
	}
	packed := &verifier{r: body, want: l.Blob.Digest, size: l.Blob.Size, hash: l.Blob.Digest.Algorithm().Hash(), moved: moved}
	ahead := newReadAhead(ctx, packed)
	defer func() {
		cancel() // first: it ends a read under way
		ahead.Close()
		body.Close()
	}()
	plain, err := layer.Decompress(ahead)
	if err != nil {
		return layer.Result{}, fmt.Errorf("decompress: %w", err)
	}
	defer plain.Close()
	tar := &verifier{r: plain, want: l.DiffID, size: -1, hash: l.DiffID.Algorithm().Hash(), moved: moved, rest: ahead}
	res, err := layer.Unpack(ctx, layer.Job{Argv: f.opts.Unpack, Dir: filepath.Join(f.dir, "fs"), Stream: tar, Limits: f.opts.Limits})
	if err != nil {
		return res, err
	}
	// The child has read to the end, so both digests were seen through and are right.
	if !packed.good.Load() || !tar.good.Load() {
		return res, fmt.Errorf("stream was not read to its end: %w", io.ErrUnexpectedEOF)
	}
	return res, nil
}

// verifier passes a stream on and turns its end into an error when it is not what was asked for.
type verifier struct {
	r     io.Reader
	want  digest.Digest
	size  int64 // -1: not known
	hash  hash.Hash
	n     int64
	moved *atomic.Int64
	rest  io.Reader // to be read to the end as well: what a decompressor leaves behind its last frame
	good  atomic.Bool
}

func (v *verifier) Read(p []byte) (int, error) {
	n, err := v.r.Read(p)
	v.hash.Write(p[:n])
	v.n += int64(n)
	v.moved.Add(int64(n))
	if v.size >= 0 && v.n > v.size {
		return 0, fmt.Errorf("more than its %d bytes: %w", v.size, fs.ErrInvalid)
	}
	if err != io.EOF {
		return n, err
	}
	if v.rest != nil {
		if _, err := io.Copy(io.Discard, v.rest); err != nil {
			return n, err
		}
	}
	if have := digest.NewDigest(v.want.Algorithm(), v.hash); have != v.want {
		return n, fmt.Errorf("digest is %s, not %s: %w", have, v.want, fs.ErrInvalid)
	}
	v.good.Store(true)
	return n, io.EOF
}

// readAhead reads in a goroutine of its own, so that waiting for the network and hashing overlap with decompression.
type readAhead struct {
	full  chan []byte
	empty chan []byte
	stop  chan struct{}
	ended chan struct{}
	err   error // read after full is closed
	cur   []byte
	whole []byte
}

const (
	aheadSize  = 128 << 10
	aheadCount = 8
)

func newReadAhead(ctx context.Context, r io.Reader) *readAhead {
	a := &readAhead{full: make(chan []byte, aheadCount), empty: make(chan []byte, aheadCount), stop: make(chan struct{}), ended: make(chan struct{})}
	for range aheadCount {
		a.empty <- make([]byte, aheadSize)
	}
	// ends when the stream does, or at Close
	go func() {
		defer close(a.ended)
		defer close(a.full)
		for {
			var b []byte
			select {
			case b = <-a.empty:
			case <-a.stop:
				return
			case <-ctx.Done():
				a.err = ctx.Err()
				return
			}
			n, err := r.Read(b[:aheadSize])
			if n > 0 {
				a.full <- b[:n]
			}
			if err != nil {
				a.err = err
				return
			}
		}
	}()
	return a
}

func (a *readAhead) Read(p []byte) (int, error) {
	for len(a.cur) == 0 {
		if a.whole != nil {
			a.empty <- a.whole
			a.whole = nil
		}
		b, ok := <-a.full
		if !ok {
			if a.err == nil {
				return 0, io.EOF
			}
			return 0, a.err
		}
		a.cur, a.whole = b, b
	}
	n := copy(p, a.cur)
	a.cur = a.cur[n:]
	return n, nil
}

// Close stops reading ahead. It waits for a read under way, which ends when the context of the stream does.
func (a *readAhead) Close() {
	close(a.stop)
	<-a.ended
}
