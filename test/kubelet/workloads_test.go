package kubelet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	busybox = "registry.k8s.io/e2e-test-images/busybox:1.29-2"
	nginx   = "docker.io/library/nginx:latest"
)

// get fetches a page from a pod.
func get(ctx context.Context, url string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return "", err
	}
	resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err == nil && resp.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s", url, resp.Status)
	}
	return string(body), err
}

func TestDeployment(t *testing.T) {
	t.Parallel()
	deployment(t)
}

// deployment rolls one out, updates it, and takes it back.
func deployment(t *testing.T) {
	b := open(t)
	began := time.Now()
	b.create(`
apiVersion: apps/v1
kind: Deployment
metadata: {name: web}
spec:
  replicas: 2
  selector: {matchLabels: {app: web}}
  template:
    metadata: {labels: {app: web}}
    spec:
      terminationGracePeriodSeconds: 3
      containers:
      - name: nginx
        image: ` + nginx + `
        ports: [{containerPort: 80}]
        readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
`)
	pods := b.replicas("web", 2)
	t.Logf("two pods ready after %s", time.Since(began).Round(10*time.Millisecond))
	ips := map[string]bool{}
	for _, p := range pods {
		ips[p.Status.PodIP] = true
		b.eventually("page of "+p.Name, func(ctx context.Context) error {
			page, err := get(ctx, "http://"+p.Status.PodIP)
			if err == nil && !strings.Contains(page, "Welcome to nginx") {
				err = fmt.Errorf("page is %q", page)
			}
			return err
		})
	}
	if len(ips) != 2 {
		t.Errorf("addresses: %v", ips)
	}
	// A rolling update replaces both, one at a time.
	patch := `{"spec":{"template":{"metadata":{"annotations":{"version":"2"}}}}}`
	if _, err := b.Client.AppsV1().Deployments(b.ns).Patch(t.Context(), "web", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
		t.Fatal(err)
	}
	b.eventually("rolling update", func(ctx context.Context) error {
		now, err := b.selected(ctx, "web")
		if err != nil {
			return err
		}
		for _, p := range now {
			if p.Annotations["version"] != "2" || !isReady(&p) {
				return fmt.Errorf("%s is of the old version or not ready", p.Name)
			}
		}
		if len(now) != 2 {
			return fmt.Errorf("%d pods", len(now))
		}
		return nil
	})
	b.output("scale", "deployment", "web", "--replicas=0")
	b.replicas("web", 0)
}

func TestDaemonSet(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.create(`
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: agent}
spec:
  selector: {matchLabels: {app: agent}}
  template:
    metadata: {labels: {app: agent}}
    spec:
      hostNetwork: true
      hostPID: true
      terminationGracePeriodSeconds: 1
      containers:
      - {name: agent, image: "` + busybox + `", command: [sh, -c, "ps | grep -q [k]ubelet && echo sees the node; sleep 3600"],
         volumeMounts: [{name: host, mountPath: /host, mountPropagation: HostToContainer, readOnly: true}]}
      volumes: [{name: host, hostPath: {path: /sys}}]
`)
	p := b.replicas("agent", 1)[0]
	b.logs(p.Name, "agent", "sees the node")
	if p.Status.PodIP != p.Status.HostIP {
		t.Errorf("pod %s, node %s", p.Status.PodIP, p.Status.HostIP)
	}
}

func TestJobs(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.create(`
apiVersion: batch/v1
kind: Job
metadata: {name: sums}
spec:
  completions: 4
  parallelism: 2
  template:
    metadata: {labels: {app: sums}}
    spec: {restartPolicy: Never, containers: [{name: sum, image: "` + busybox + `", command: [sh, -c, "echo $((40+2))"]}]}
---
apiVersion: batch/v1
kind: Job
metadata: {name: fails}
spec:
  backoffLimit: 1
  template:
    metadata: {labels: {app: fails}}
    spec: {restartPolicy: Never, containers: [{name: fail, image: "` + busybox + `", command: [sh, -c, "echo why > /dev/termination-log; exit 3"]}]}
---
apiVersion: batch/v1
kind: CronJob
metadata: {name: tick}
spec:
  schedule: "* * * * *"
  jobTemplate:
    spec:
      template:
        metadata: {labels: {app: tick}}
        spec: {restartPolicy: OnFailure, containers: [{name: tick, image: "` + busybox + `", command: [date]}]}
`)
	b.job("sums", func(j batchv1.JobStatus) bool { return j.Succeeded == 4 })
	b.job("fails", func(j batchv1.JobStatus) bool { return j.Failed == 2 })
	pods, err := b.selected(t.Context(), "fails")
	if err != nil || len(pods) == 0 {
		t.Fatal(pods, err)
	}
	for _, p := range pods {
		if s := p.Status.ContainerStatuses[0].State.Terminated; s == nil || s.ExitCode != 3 || s.Reason != "Error" || s.Message != "why\n" {
			t.Errorf("state: %+v", p.Status.ContainerStatuses[0].State)
		}
	}
	b.job("tick-", func(j batchv1.JobStatus) bool { return j.Succeeded == 1 })
}

// job waits until a job whose name begins that way is as wanted.
func (b bench) job(name string, ok func(batchv1.JobStatus) bool) {
	b.Helper()
	b.eventually("job "+name, func(ctx context.Context) error {
		l, err := b.Client.BatchV1().Jobs(b.ns).List(ctx, metav1.ListOptions{})
		if err != nil {
			return err
		}
		for _, j := range l.Items {
			if !strings.HasPrefix(j.Name, name) {
				continue
			}
			if ok(j.Status) {
				return nil
			}
			err = errors.Join(err, fmt.Errorf("%s: %+v", j.Name, j.Status))
		}
		return cmp.Or(err, error(fs.ErrNotExist))
	})
}

func TestStatefulSet(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.create(`
apiVersion: apps/v1
kind: StatefulSet
metadata: {name: db}
spec:
  replicas: 2
  serviceName: db
  selector: {matchLabels: {app: db}}
  template:
    metadata: {labels: {app: db}}
    spec:
      terminationGracePeriodSeconds: 1
      containers:
      - name: db
        image: ` + busybox + `
        command: [sh, -c, "hostname >> /data/names; trap exit TERM; sleep 3600 & wait"]
        volumeMounts: [{name: data, mountPath: /data}]
      volumes: [{name: data, emptyDir: {}}]
`)
	b.replicas("db", 2)
	if got := b.sh("db-1", "cat /data/names; grep -c \"db-1.db.$(cat /var/run/secrets/kubernetes.io/serviceaccount/namespace).svc.cluster.local\" /etc/hosts"); got != "db-1\n1" {
		t.Errorf("names: %q", got)
	}
	// The container dies; its volume stays with the pod.
	b.sh("db-0", "kill -TERM 1")
	b.when("db-0", "restarted", func(p *corev1.Pod) bool { return isReady(p) && p.Status.ContainerStatuses[0].RestartCount == 1 })
	if got := b.sh("db-0", "cat /data/names"); got != "db-0\ndb-0" {
		t.Errorf("names after the restart: %q", got)
	}
	for _, p := range b.replicas("db", 2) {
		if p.Name == "db-0" {
			b.deleted(&p)
		}
	}
	b.replicas("db", 2)
}
