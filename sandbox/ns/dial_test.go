package ns_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// No thread stays behind in a pod's network, whatever becomes of a dial. Not parallel: others have threads there.
func TestDialLeavesNoThread(t *testing.T) {
	needRoot(t)
	s := ns.Spec{Net: true}
	h := hold(t, s)
	root := t.TempDir()
	dir, netPath := filepath.Join(root, "ns"), filepath.Join(root, "net")
	if _, err := ns.Pin(h.pid, s.Kinds(), dir, netPath); err != nil {
		t.Fatal(err)
	}
	defer ns.Unpin(dir, netPath)
	for range 30 {
		if _, err := ns.Dial(t.Context(), netPath, "tcp", "[::1]:1"); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	<-ctx.Done()
	if _, err := ns.Dial(ctx, netPath, "tcp", "127.0.0.1:1"); err == nil {
		t.Error("dialled after the deadline")
	}
	if _, err := ns.Dial(t.Context(), "/proc/self/ns/uts", "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.EINVAL) {
		t.Errorf("not a network: %v", err)
	}
	pod, err := os.Stat(netPath)
	if err != nil {
		t.Fatal(err)
	}
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		strangers := 0
		tasks, _ := filepath.Glob("/proc/self/task/*/ns/net")
		for _, f := range tasks {
			if of, err := os.Stat(f); err == nil && os.SameFile(of, pod) {
				strangers++
			}
		}
		if strangers == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Error("threads stayed in the pod's network")
}
