package handlers

import (
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// gVisor's runsc is not runc with other options: processes are its own kernel's, with which the pod's namespaces have little to
// do. What docs/handlers.md says of it is tested here, with two containers in a pod.
func TestGVisor(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	need(t, n, "runsc")
	cfg := harness.PodConfig("gvisor", n.Dir)
	cfg.Hostname = "deep"
	p := n.RunOn(t, cfg, "runsc")
	first := harness.Command("first", "dmesg | head -1; hostname; echo err >&2; trap 'echo bye; exit 7' TERM; echo here | nc -l -p 7777; while :; do sleep 0.05; done")
	first.Linux.Resources = &rt.LinuxContainerResources{MemoryLimitInBytes: 512 << 20}
	a := p.Start(first)
	const patience = time.Minute
	harness.Eventually(t, patience, "output in the log", func() bool { return strings.HasSuffix(p.Log("first.log", "stdout"), "deep\n") })
	if got := p.Log("first.log", "stdout"); !strings.Contains(got, "Starting gVisor") {
		t.Errorf("log %q: this is not gVisor's kernel", got)
	}
	harness.Eventually(t, patience, "standard error in the log", func() bool { return p.Log("first.log", "stderr") == "err\n" })
	b := p.Start(harness.Command("second", "trap '' TERM; while :; do sleep 1; done"))
	harness.Eventually(t, patience, "the containers share the pod's network", func() bool {
		r, err := n.Raw.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: b, Cmd: []string{"sh", "-c", "nc 127.0.0.1 7777 </dev/null"}, Timeout: 20})
		return err == nil && string(r.Stdout) == "here\n"
	})
	r, err := n.Raw.ExecSync(t.Context(), &rt.ExecSyncRequest{ContainerId: a, Cmd: []string{"sh", "-c", "echo o; echo e >&2; exit 3"}, Timeout: 60})
	if err != nil || string(r.Stdout) != "o\n" || string(r.Stderr) != "e\n" || r.ExitCode != 3 {
		t.Errorf("exec: %v, %v", r, err)
	}
	stats(t, n, a)
	if err := n.Runtime.StopContainer(t.Context(), a, 20); err != nil {
		t.Fatal(err)
	}
	if st := n.Status(t, a); st.State != rt.ContainerState_CONTAINER_EXITED || st.ExitCode != 7 {
		t.Errorf("after stop: %v, exit code %d, reason %q", st.State, st.ExitCode, st.Reason)
	}
	if err := n.Runtime.StopContainer(t.Context(), b, 1); err != nil {
		t.Fatal(err)
	}
	if st := n.Status(t, b); st.ExitCode != 137 {
		t.Errorf("after its grace: %v, exit code %d", st.State, st.ExitCode)
	}
}
