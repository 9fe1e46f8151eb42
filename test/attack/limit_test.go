package attack_test

import (
	"fmt"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A container with a memory limit of 6 MiB starts; its program then has what is left of that and no more.
func TestSmallMemory(t *testing.T) {
	t.Parallel()
	limit := int64(6 << 20)
	b := newBox(t, "exit", "0")
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	for range 3 {
		if r := b.run(); r.code != 0 {
			t.Fatalf("6 MiB: %d %s", r.code, r.err)
		}
	}
	b.spec.Process.Args = []string{"/probe", "fill", "32"}
	b.config()
	if r := b.oci("run", "--bundle", b.bundle, b.id); strings.Contains(r.out, "filled") {
		t.Error("32 MiB fit into 6")
	}
}

// A limit that nothing fits into is an error that says so, not a hang.
func TestNoMemory(t *testing.T) {
	t.Parallel()
	limit := int64(128 << 10)
	b := newBox(t, "exit", "0")
	b.spec.Linux.Resources.Memory = &specs.LinuxMemory{Limit: &limit}
	b.config()
	if r := b.oci("create", "--bundle", b.bundle, b.id); r.code != 0 && strings.TrimSpace(r.err) == "" {
		t.Error("silence")
	}
}

// 200 containers created at once all start.
func TestCrowd(t *testing.T) {
	needRoot(t)
	count := 200
	var wg sync.WaitGroup
	all := make([]*box, count)
	for i := range all {
		all[i] = newBox(t, "sleep")
		all[i].config()
	}
	errs := make([]string, count)
	begin := time.Now()
	for i, b := range all {
		wg.Add(1)
		// ends when create has
		go func() {
			defer wg.Done()
			log := fmt.Sprint(b.bundle, "/log")
			cmd := exec.Command(runtimeBin(), "--root", b.root, "--log", log, "create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id)
			if err := cmd.Run(); err != nil {
				text, _ := os.ReadFile(log)
				errs[i] = fmt.Sprintf("%v %s", err, text)
			}
		}()
	}
	wg.Wait()
	created := time.Since(begin)
	for i, b := range all {
		if errs[i] != "" {
			t.Errorf("create %d: %s", i, errs[i])
			continue
		}
		if r := b.oci("start", b.id); r.code != 0 {
			t.Errorf("start %d: %s", i, r.err)
		}
	}
	running := 0
	for _, b := range all {
		if r := b.oci("state", b.id); strings.Contains(r.out, `"running"`) {
			running++
		}
	}
	if running != count {
		t.Errorf("%d of %d run", running, count)
	}
	t.Logf("%d created in %v", count, created)
}
