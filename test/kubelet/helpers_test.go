package kubelet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/client-go/dynamic"
	"sigs.k8s.io/yaml"

	"github.com/berth-runtime/berth/test/kubelet/cluster"
)

// patience is for what happens in the background on a machine that does other things too.
const patience = 3 * time.Minute

func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }

// bench is a test's namespace in the cluster.
type bench struct {
	*testing.T
	*cluster.Cluster
	ns string
}

// open makes a namespace for the test and removes what is in it at the end.
func open(t *testing.T) bench {
	t.Helper()
	c := cluster.Get(t)
	ns, err := c.Client.CoreV1().Namespaces().Create(t.Context(), &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "t-"}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	b := bench{t, c, ns.Name}
	t.Cleanup(func() {
		if t.Failed() {
			b.explain()
		}
		now := int64(0)
		if err := c.Client.CoreV1().Namespaces().Delete(context.Background(), ns.Name, metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
			t.Error(err)
		}
	})
	// The controller manager makes it; a pod made before is refused.
	b.eventually("default service account", func(ctx context.Context) error {
		_, err := c.Client.CoreV1().ServiceAccounts(ns.Name).Get(ctx, "default", metav1.GetOptions{})
		return err
	})
	return b
}

// explain shows what Kubernetes says of the test's pods.
func (b bench) explain() {
	ctx := context.Background()
	pods, err := b.Client.CoreV1().Pods(b.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.Log(err)
		return
	}
	for _, p := range pods.Items {
		b.Logf("pod %s: %s %s %s", p.Name, p.Status.Phase, p.Status.Reason, p.Status.Message)
		for _, s := range append(p.Status.InitContainerStatuses, p.Status.ContainerStatuses...) {
			b.Logf("  %s: ready %v, restarts %d, %+v, last %+v", s.Name, s.Ready, s.RestartCount, s.State, s.LastTerminationState)
		}
	}
	events, err := b.Client.CoreV1().Events(b.ns).List(ctx, metav1.ListOptions{})
	if err != nil {
		b.Log(err)
		return
	}
	for _, e := range events.Items {
		b.Logf("event: %s %s: %s", e.InvolvedObject.Name, e.Reason, e.Message)
	}
}

// create makes the objects of a manifest, several of them between lines of "---".
func (b bench) create(manifest string) {
	b.Helper()
	d, err := dynamic.NewForConfig(b.Rest)
	if err != nil {
		b.Fatal(err)
	}
	for _, doc := range strings.Split(manifest, "\n---\n") {
		var u unstructured.Unstructured
		if err := yaml.Unmarshal([]byte(doc), &u.Object); err != nil {
			b.Fatalf("%v in:\n%s", err, doc)
		}
		r, _ := meta.UnsafeGuessKindToResource(u.GroupVersionKind())
		if _, err := d.Resource(r).Namespace(b.ns).Create(b.Context(), &u, metav1.CreateOptions{}); err != nil {
			b.Fatalf("%v in:\n%s", err, doc)
		}
	}
}

// pod makes a pod of that name from the YAML of its spec.
func (b bench) pod(name, spec string) {
	b.Helper()
	b.create("apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + ", labels: {app: " + name + "}}\nspec:\n" + indent(spec))
}

func indent(s string) string {
	return "  " + strings.ReplaceAll(strings.Trim(s, "\n"), "\n", "\n  ")
}

func (b bench) eventually(what string, try func(context.Context) error) {
	b.Helper()
	if err := cluster.Poll(b.Context(), patience, try); err != nil {
		b.Fatalf("%s: %v", what, err)
	}
}

// when waits until the pod is as wanted and returns it.
func (b bench) when(name, what string, ok func(*corev1.Pod) bool) *corev1.Pod {
	b.Helper()
	var pod *corev1.Pod
	b.eventually("pod "+name+" "+what, func(ctx context.Context) error {
		var err error
		if pod, err = b.Client.CoreV1().Pods(b.ns).Get(ctx, name, metav1.GetOptions{}); err != nil {
			return err
		}
		if !ok(pod) {
			return fmt.Errorf("phase %s, conditions %v", pod.Status.Phase, pod.Status.Conditions)
		}
		return nil
	})
	return pod
}

func (b bench) ready(name string) *corev1.Pod {
	b.Helper()
	return b.when(name, "ready", isReady)
}

func (b bench) done(name string) *corev1.Pod {
	b.Helper()
	return b.when(name, "done", func(p *corev1.Pod) bool {
		return p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed
	})
}

func isReady(p *corev1.Pod) bool {
	for _, c := range p.Status.Conditions {
		if c.Type == corev1.PodReady {
			return c.Status == corev1.ConditionTrue && p.DeletionTimestamp == nil
		}
	}
	return false
}

// selected are the test's pods with the label app.
func (b bench) selected(ctx context.Context, app string) ([]corev1.Pod, error) {
	l, err := b.Client.CoreV1().Pods(b.ns).List(ctx, metav1.ListOptions{LabelSelector: "app=" + app})
	if err != nil {
		return nil, err
	}
	return l.Items, nil
}

// replicas waits until exactly n pods with the label app are there and ready.
func (b bench) replicas(app string, n int) []corev1.Pod {
	b.Helper()
	var pods []corev1.Pod
	b.eventually(fmt.Sprintf("%d ready pods of %s", n, app), func(ctx context.Context) error {
		var err error
		if pods, err = b.selected(ctx, app); err != nil {
			return err
		}
		up := 0
		for i := range pods {
			if isReady(&pods[i]) {
				up++
			}
		}
		if up != n || len(pods) != n {
			return fmt.Errorf("%d pods, %d ready", len(pods), up)
		}
		return nil
	})
	return pods
}

// deleted removes the pod with its grace period and waits until it is gone; its controller may have made another by then.
func (b bench) deleted(p *corev1.Pod) {
	b.Helper()
	if err := b.Client.CoreV1().Pods(b.ns).Delete(b.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
		b.Fatal(err)
	}
	b.eventually("pod "+p.Name+" gone", func(ctx context.Context) error {
		now, err := b.Client.CoreV1().Pods(b.ns).Get(ctx, p.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err) || err == nil && now.UID != p.UID:
			return nil
		case err == nil:
			return errors.New("still there")
		}
		return err
	})
}

// kubectl is a command of kubectl in the test's namespace.
func (b bench) kubectl(args ...string) *exec.Cmd {
	return b.Kubectl(b.Context(), append([]string{"-n", b.ns}, args...)...)
}

// output runs kubectl and returns what it wrote to its standard output; the other has hints for people.
func (b bench) output(args ...string) string {
	b.Helper()
	cmd := b.kubectl(args...)
	var out, hints bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &hints
	if err := cmd.Run(); err != nil {
		b.Fatalf("kubectl %v: %v: %s%s", args, err, &out, &hints)
	}
	return out.String()
}

// sh runs a shell command in a pod's first container.
func (b bench) sh(pod, script string) string {
	b.Helper()
	return strings.TrimSpace(b.output("exec", pod, "--", "sh", "-c", script))
}

// logs waits until the container's log is as wanted.
func (b bench) logs(pod, container, want string) {
	b.Helper()
	b.eventually("log of "+pod, func(ctx context.Context) error {
		raw, err := b.Client.CoreV1().Pods(b.ns).GetLogs(pod, &corev1.PodLogOptions{Container: container}).DoRaw(ctx)
		if err != nil {
			return err
		}
		if !strings.Contains(string(raw), want) {
			return fmt.Errorf("%q is not in %q", want, raw)
		}
		return nil
	})
}

// event waits for an event of the object with that reason and text.
func (b bench) event(object, reason, text string) {
	b.Helper()
	b.eventually("event "+reason+" of "+object, func(ctx context.Context) error {
		l, err := b.Client.CoreV1().Events(b.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.InvolvedObject.Name == object && e.Reason == reason && strings.Contains(e.Message, text) {
				return nil
			}
		}
		return fmt.Errorf("none of %d events", len(l.Items))
	})
}
