package kubelet

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/kubelet/cluster"
)

// The tests of this file change the node itself: they are not parallel, so they run before all others.

func TestStaticPod(t *testing.T) {
	c := cluster.Get(t)
	b := bench{t, c, "default"}
	file := filepath.Join(c.Manifests, "static.yaml")
	manifest := "apiVersion: v1\nkind: Pod\nmetadata: {name: static}\nspec:\n  terminationGracePeriodSeconds: 1\n  containers: [{name: c, image: " + nginx + "}]\n"
	began := time.Now()
	if err := os.WriteFile(file, []byte(manifest), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(file) }) // it may be gone
	p := b.ready("static-" + cluster.NodeName)
	t.Logf("ready %s after its manifest was there", time.Since(began).Round(10*time.Millisecond))
	if page, err := get(t.Context(), "http://"+p.Status.PodIP); err != nil || !strings.Contains(page, "Welcome") {
		t.Errorf("%q, %v", page, err)
	}
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	b.eventually("static pod gone", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().Pods("default").Get(ctx, p.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return nil
		}
		return fmt.Errorf("still there: %v", err)
	})
}

// sandboxes counts the ready sandboxes of every pod of the namespace, by pod name.
func (b bench) sandboxes(ctx context.Context) (map[string]int, error) {
	pods, err := b.Runtime.ListPodSandbox(ctx, &rt.PodSandboxFilter{State: &rt.PodSandboxStateValue{State: rt.PodSandboxState_SANDBOX_READY}})
	n := map[string]int{}
	for _, p := range pods {
		if p.Metadata.Namespace == b.ns {
			n[p.Metadata.Name]++
		}
	}
	return n, err
}

// Whatever is killed, pods go on: the same containers, none restarted, none twice.
func TestRestarts(t *testing.T) {
	b := open(t)
	manifest := `
apiVersion: apps/v1
kind: Deployment
metadata: {name: NAME}
spec:
  replicas: 3
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: c
        image: ` + busybox + `
        command: [sh, -c, "while :; do date; sleep 0.2; done"]
        livenessProbe: {exec: {command: ["true"]}, periodSeconds: 1, timeoutSeconds: 20}
`
	b.create(strings.ReplaceAll(manifest, "NAME", "old"))
	before := map[string]string{}
	for _, p := range b.replicas("old", 3) {
		before[p.Name] = p.Status.ContainerStatuses[0].ContainerID
	}
	for i, killed := range [][]string{{"berth"}, {"kubelet"}, {"berth", "kubelet"}} {
		// Pods are on their way while it happens.
		name := fmt.Sprintf("new-%d", i)
		b.create(strings.ReplaceAll(manifest, "NAME", name))
		for _, k := range killed {
			if err := b.Restart(k, syscall.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		for _, p := range b.replicas(name, 3) {
			b.when(p.Name, "logging", func(p *corev1.Pod) bool { return isReady(p) && b.output("logs", p.Name, "--tail=1") != "" })
		}
		b.sameAs(before, killed)
	}
	now, err := b.sandboxes(t.Context())
	if err != nil || len(now) != 12 {
		t.Errorf("pods with sandboxes: %v, %v", now, err)
	}
	for pod, n := range now {
		if n != 1 {
			t.Errorf("%s has %d sandboxes", pod, n)
		}
	}
}

func (b bench) sameAs(before map[string]string, killed []string) {
	b.Helper()
	for _, p := range b.replicas("old", 3) {
		s := p.Status.ContainerStatuses[0]
		if s.ContainerID != before[p.Name] || s.RestartCount != 0 {
			b.Errorf("after the end of %v: %s: %s with %d restarts, was %s", killed, p.Name, s.ContainerID, s.RestartCount, before[p.Name])
		}
	}
}

// A node that runs out of disk takes unused images away, then evicts the pod that took the most; then all is well again.
func TestDiskPressure(t *testing.T) {
	b := open(t)
	unused := &rt.ImageSpec{Image: "public.ecr.aws/docker/library/busybox:1-musl"}
	if _, err := b.Images.PullImage(t.Context(), unused, nil, nil); err != nil {
		t.Fatal(err)
	}
	restore, err := b.Reconfigure(strings.NewReplacer(`nodefs.available: "1%"`, "nodefs.available: 3Gi", `imagefs.available: "1%"`, "imagefs.available: 3Gi",
		"imageGCHighThresholdPercent: 100", "evictionPressureTransitionPeriod: 5s\nimageMinimumGCAge: 1ms\nimageGCHighThresholdPercent: 100"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
		if err := b.Ready(); err != nil {
			t.Error(err)
		}
	})
	b.pod("modest", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: \""+busybox+"\", command: [sleep, \"3600\"]}]")
	b.ready("modest")
	b.pod("greedy", `
restartPolicy: Never
terminationGracePeriodSeconds: 1
containers: [{name: c, image: "`+busybox+`", command: [sh, -c, "dd if=/dev/zero of=/v/x bs=1M count=1300; sleep 3600"], volumeMounts: [{name: v, mountPath: /v}]}]
volumes: [{name: v, emptyDir: {}}]`)
	b.when("greedy", "evicted", func(p *corev1.Pod) bool { return p.Status.Phase == corev1.PodFailed && p.Status.Reason == "Evicted" })
	b.eventually("unused image gone", func(ctx context.Context) error {
		s, err := b.Images.ImageStatus(ctx, unused, false)
		if err == nil && s.Image != nil {
			err = errors.New("still there")
		}
		return err
	})
	b.eventually("end of the pressure", func(ctx context.Context) error {
		n, err := b.Client.CoreV1().Nodes().Get(ctx, cluster.NodeName, metav1.GetOptions{})
		if err != nil {
			return err
		}
		for _, cond := range n.Status.Conditions {
			if cond.Type == corev1.NodeDiskPressure && cond.Status != corev1.ConditionFalse {
				return errors.New(cond.Message)
			}
		}
		return nil
	})
	if p := b.ready("modest"); status(p, "c").RestartCount != 0 {
		t.Errorf("modest: %+v", p.Status)
	}
}

// What kubelet tells of pods' use (stats/summary) comes from the runtime alone.
func TestSummary(t *testing.T) {
	pods(t, strings.Contains(os.Getenv("BERTH_KUBELET_GATES"), "PodAndContainerStatsFromCRI=true"))
}

// pods looks for one in kubelet's stats/summary.
func pods(t *testing.T, network bool) {
	b := open(t)
	b.pod("busy", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: \""+busybox+"\", command: [sh, -c, \"head -c 5000000 /dev/zero > /file; while :; do :; done\"]}]")
	b.ready("busy")
	b.eventually("summary", func(ctx context.Context) error {
		var s summary
		raw, err := b.proxied(ctx, "stats", "summary")
		if err != nil {
			return err
		}
		return s.check(raw, b.ns, network)
	})
}

// proxied is a page of kubelet's.
func (b bench) proxied(ctx context.Context, path ...string) ([]byte, error) {
	return b.Client.CoreV1().RESTClient().Get().Resource("nodes").Name(cluster.NodeName).SubResource(append([]string{"proxy"}, path...)...).DoRaw(ctx)
}

// With these gates kubelet waits for the runtime's events in place of asking every second, takes all numbers from it,
// and has lists streamed.
func TestGates(t *testing.T) {
	b := open(t)
	seen := len(b.read("berth.log"))
	restore, err := b.Reconfigure(strings.NewReplacer("enableServer: true", "enableServer: true\nfeatureGates: {EventedPLEG: true, PodAndContainerStatsFromCRI: true, CRIListStreaming: true}"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := restore(); err != nil {
			t.Error(err)
		}
		if err := b.Ready(); err != nil {
			t.Error(err)
		}
	})
	t.Run("deployment", deployment)
	t.Run("summary", func(t *testing.T) { pods(t, true) })
	// A container that ends is told by an event; kubelet looks by itself only every five minutes.
	b.pod("brief", "restartPolicy: Never\ncontainers: [{name: c, image: \""+busybox+"\", command: [sh, -c, \"sleep 2; exit 4\"]}]")
	if s := status(b.done("brief"), "c").State.Terminated; s == nil || s.ExitCode != 4 {
		t.Errorf("brief: %+v", s)
	}
	raw, err := b.proxied(t.Context(), "metrics")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"kubelet_evented_pleg_connection_success_count 1", "kubelet_evented_pleg_connection_error_count 0"} {
		if !strings.Contains(string(raw), "\n"+line+"\n") {
			t.Errorf("kubelet's metrics lack %q", line)
		}
	}
	b.pod("steady", "terminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: \""+busybox+"\", command: [sleep, \"3600\"]}]")
	b.ready("steady")
	family := regexp.MustCompile(`(?m)^container_memory_working_set_bytes{[^}]*container="c",[^}]*namespace="` + b.ns + `",pod="steady"`)
	b.eventually("metrics/cadvisor", func(ctx context.Context) error {
		raw, err := b.proxied(ctx, "metrics", "cadvisor")
		if err == nil && !family.Match(raw) {
			err = fmt.Errorf("nothing of the pod's memory in %d bytes", len(raw))
		}
		return err
	})
	log := b.read("berth.log")[seen:]
	for _, call := range []string{"StreamPodSandboxes", "StreamContainers", "StreamImages", "StreamPodSandboxStats", "StreamPodSandboxMetrics"} {
		if !strings.Contains(log, "msg="+call+" ") {
			t.Errorf("no %s was asked for", call)
		}
	}
}

// read is a file of the cluster's.
func (b bench) read(name string) string {
	b.Helper()
	raw, err := os.ReadFile(filepath.Join(b.Dir, name))
	if err != nil {
		b.Fatal(err)
	}
	return string(raw)
}
