package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Blob opens a blob or manifest. The reader goes on where it was when the connection breaks; it does not check the digest, which
// is the caller's. Close must be called.
func (r *Repository) Blob(ctx context.Context, desc ocispec.Descriptor) (io.ReadCloser, error) {
	b := &blob{ctx: ctx, repo: r, desc: desc}
	if err := again(ctx, b.open); err != nil {
		return nil, classify(ctx, err)
	}
	return b, nil
}

// blob is a reader with a memory of how far it got.
type blob struct {
	ctx    context.Context // of the one pull this reader belongs to
	repo   *Repository
	desc   ocispec.Descriptor
	rc     io.ReadCloser
	offset int64
	broken int // reads in a row that failed without a byte
}

const maxBroken = 4

// open asks for the rest of the content. The library sends the request at the first read, so one byte is read ahead nowhere and
// errors of the request come from Read.
func (b *blob) open() error {
	rc, err := b.repo.fetch.Fetch(quiet(b.ctx), b.desc)
	if err != nil {
		return err
	}
	if b.offset > 0 {
		s, ok := rc.(io.Seeker)
		if !ok {
			rc.Close()
			return fmt.Errorf("seek: %w", errors.ErrUnsupported)
		}
		if _, err := s.Seek(b.offset, io.SeekStart); err != nil {
			rc.Close()
			return err
		}
	}
	b.rc = rc
	return nil
}

// Read reads on, over broken connections.
func (b *blob) Read(p []byte) (int, error) {
	for {
		n, err := b.rc.Read(p)
		b.offset += int64(n)
		if n > 0 {
			b.broken = 0
		}
		if err == nil || err == io.EOF && (b.desc.Size <= 0 || b.offset >= b.desc.Size) {
			return n, err
		}
		if err == io.EOF {
			err = io.ErrUnexpectedEOF // the server's idea of the size differs
		}
		if n > 0 {
			return n, b.reopen(nil)
		}
		if b.broken++; b.ctx.Err() != nil || b.broken > maxBroken || !unavailable(err) {
			return 0, classify(b.ctx, err)
		}
		if err := b.reopen(err); err != nil {
			return 0, classify(b.ctx, err)
		}
	}
}

// reopen waits a little, more each time, and asks again.
func (b *blob) reopen(cause error) error {
	if cause != nil {
		select {
		case <-b.ctx.Done():
			return b.ctx.Err()
		case <-time.After(100 * time.Millisecond << b.broken):
		}
	}
	b.rc.Close()
	return b.open()
}

// Close drops the connection.
func (b *blob) Close() error { return b.rc.Close() }
