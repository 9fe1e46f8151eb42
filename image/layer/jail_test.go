package layer_test

import (
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"context"
	"errors"
	"github.com/berth-runtime/berth/image/layer"
)

// TestJail: in the jail a device can be made, which archives have, and nothing else of what would lead out.
func TestJail(t *testing.T) {
	t.Parallel()
	c := newCage(t)
	cmd := exec.Command("/proc/self/exe", "probe", c.dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS}
	out, err := cmd.CombinedOutput()
	if got := strings.TrimSpace(string(out)); err != nil || got != "mknod" {
		t.Errorf("in the jail these work: %s (%v)", got, err)
	}
	c.check(t)
}

type stalled struct{ ctx context.Context }

func (s stalled) Read([]byte) (int, error) {
	<-s.ctx.Done()
	return 0, s.ctx.Err()
}

// TestCancel: the end of the context ends the child, and is the error.
func TestCancel(t *testing.T) {
	t.Parallel()
	c := newCage(t)
	ctx, cancel := context.WithTimeout(context.Background(), 100*time.Millisecond)
	defer cancel()
	_, err := layer.Unpack(ctx, layer.Job{Argv: []string{"/proc/self/exe", "unpack"}, Dir: c.dir, Stream: stalled{ctx}})
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}
