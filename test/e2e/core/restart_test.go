package core

import (
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// The daemon may die at any moment and pods don't notice: they run, log, and end, and the next daemon knows all of it.
func TestRestart(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM} {
		t.Run(sig.String(), func(t *testing.T) { restart(t, n, sig) })
	}
}

func restart(t *testing.T, n *harness.Node, sig syscall.Signal) {
	p := n.Run(t, harness.PodConfig("restart", n.Dir))
	stays := p.Start(harness.Command("stays", "i=0; while true; do i=$((i+1)); echo $i; sleep 0.05; done"))
	ends := p.Start(harness.Command("ends", "while [ ! -e /tmp/go ]; do sleep 0.05; done; exit 9"))
	created := p.Create(harness.Command("created", "sleep 1000"))
	gone := p.Start(harness.Command("gone", "exit 4"))
	n.Exited(t, gone)
	before, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, false)
	if err != nil {
		t.Fatal(err)
	}
	// The end comes while no daemon is there.
	n.Exec(t, ends, "sh", "-c", "(sleep 1; touch /tmp/go) >/dev/null 2>&1 &")
	if err := n.Kill(sig); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(filepath.Join(p.Config.LogDirectory, "stays.log"))
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	at := size()
	harness.Eventually(t, harness.Patience, "the log grows without a daemon", func() bool { return size() > at })
	harness.Eventually(t, harness.Patience, "the container ends without a daemon", func() bool {
		_, err := os.Stat(filepath.Join(n.Root, "pods", p.ID, "c", ends, "exit.json"))
		return err == nil
	})
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	after, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, false)
	if err != nil || after.Status.State != rt.PodSandboxState_SANDBOX_READY || after.Status.Network.GetIp() != before.Status.Network.GetIp() ||
		after.Status.CreatedAt != before.Status.CreatedAt {
		t.Errorf("pod: %v, %v; was %v", after, err, before)
	}
	for id, want := range map[string]rt.ContainerState{stays: rt.ContainerState_CONTAINER_RUNNING, created: rt.ContainerState_CONTAINER_CREATED,
		ends: rt.ContainerState_CONTAINER_EXITED, gone: rt.ContainerState_CONTAINER_EXITED} {
		if s := n.Status(t, id); s.State != want {
			t.Errorf("container %s: %v, want %v", s.Metadata.Name, s.State, want)
		}
	}
	if s := n.Status(t, ends); s.ExitCode != 9 {
		t.Errorf("a container that ended meanwhile: exit %d, want 9", s.ExitCode)
	}
	if s := n.Status(t, gone); s.ExitCode != 4 {
		t.Errorf("a container that had ended: exit %d, want 4", s.ExitCode)
	}
	if got := n.Exec(t, stays, "echo", "still here"); got != "still here\n" {
		t.Errorf("exec: %q", got)
	}
	if err := n.Runtime.StartContainer(t.Context(), created); err != nil {
		t.Errorf("start of a container created before: %v", err)
	}
	if got := strings.Fields(p.Log("stays.log", "stdout")); len(got) == 0 || got[0] != "1" {
		t.Errorf("the log begins with %.20q", got)
	}
}

// A second daemon on the same root is refused at once.
func TestSecondDaemon(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	out, err := n.Second(harness.Patience)
	if err == nil {
		t.Error("a second daemon serves the same root")
	}
	if !strings.Contains(out, n.Root) && !strings.Contains(out, n.State) {
		t.Errorf("its error names neither directory: %s", out)
	}
}
