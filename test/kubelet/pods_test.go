package kubelet

import (
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestVolumes(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.create(`
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {colour: blue, file.txt: "from a config map\n"}
---
apiVersion: v1
kind: Secret
metadata: {name: keys}
stringData: {password: sesame}
`)
	b.pod("volumes", `
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: `+busybox+`
  command: [sleep, "3600"]
  env:
  - {name: COLOUR, valueFrom: {configMapKeyRef: {name: settings, key: colour}}}
  - {name: PASSWORD, valueFrom: {secretKeyRef: {name: keys, key: password}}}
  - {name: MY_IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}
  volumeMounts:
  - {name: settings, mountPath: /settings}
  - {name: settings, mountPath: /one.txt, subPath: file.txt}
  - {name: keys, mountPath: /keys, readOnly: true}
  - {name: ram, mountPath: /ram}
  - {name: about, mountPath: /about}
  - {name: image, mountPath: /image}
volumes:
- {name: settings, configMap: {name: settings}}
- {name: keys, secret: {secretName: keys, defaultMode: 0400}}
- {name: ram, emptyDir: {medium: Memory, sizeLimit: 8Mi}}
- {name: about, downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}}
- {name: image, image: {reference: "`+nginx+`", pullPolicy: IfNotPresent}}
`)
	p := b.ready("volumes")
	for script, want := range map[string]string{
		"echo $COLOUR $PASSWORD $MY_IP":                                             "blue sesame " + p.Status.PodIP,
		"cat /settings/file.txt /one.txt":                                           "from a config map\nfrom a config map",
		"cat /keys/password; stat -L -c %a /keys/password":                          "sesame400",
		"touch /keys/x 2>&1 | grep -c Read-only":                                    "1",
		"df -m /ram | tail -1 | awk '{print $2}'; echo x > /ram/x":                  "8",
		"cat /about/labels":                                                         `app="volumes"`,
		"test -s /var/run/secrets/kubernetes.io/serviceaccount/token && echo token": "token",
		"grep -o 'Welcome to nginx!</title' /image/usr/share/nginx/html/index.html": "Welcome to nginx!</title",
		"touch /image/x 2>&1 | grep -c Read-only":                                   "1",
	} {
		if got := b.sh("volumes", script); got != want {
			t.Errorf("%s: %q, want %q", script, got, want)
		}
	}
	// kubelet swaps a link in the volume: the container sees it without being restarted.
	cm, err := b.Client.CoreV1().ConfigMaps(b.ns).Get(t.Context(), "settings", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	cm.Data["colour"] = "green"
	if _, err := b.Client.CoreV1().ConfigMaps(b.ns).Update(t.Context(), cm, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.eventually("new config map", func(context.Context) error {
		if got := b.sh("volumes", "cat /settings/colour"); got != "green" {
			return fmt.Errorf("colour is %s", got)
		}
		return nil
	})
}

// Init containers run one after another, then the sidecar, then the container; the sidecar ends last.
func TestInitAndSidecar(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("order", `
restartPolicy: Never
initContainers:
- {name: one, image: "`+busybox+`", command: [sh, -c, "echo one >> /w/order"], volumeMounts: [{name: w, mountPath: /w}]}
- {name: two, image: "`+busybox+`", command: [sh, -c, "echo two >> /w/order"], volumeMounts: [{name: w, mountPath: /w}]}
- name: side
  image: `+busybox+`
  restartPolicy: Always
  command: [sh, -c, "trap 'echo side ends; exit' TERM; echo side >> /w/order; touch /w/up; while :; do sleep 0.1; done"]
  startupProbe: {exec: {command: [test, -e, /w/up]}, periodSeconds: 1}
  volumeMounts: [{name: w, mountPath: /w}]
containers:
- {name: main, image: "`+busybox+`", command: [sh, -c, "echo main >> /w/order; cat /w/order"], volumeMounts: [{name: w, mountPath: /w}]}
volumes: [{name: w, emptyDir: {}}]
`)
	p := b.done("order")
	if p.Status.Phase != corev1.PodSucceeded {
		t.Errorf("phase %s", p.Status.Phase)
	}
	b.logs("order", "main", "one\ntwo\nside\nmain\n")
	b.logs("order", "side", "side ends")
}

func TestProbes(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("probed", `
terminationGracePeriodSeconds: 1
containers:
- name: web
  image: `+nginx+`
  startupProbe: {tcpSocket: {port: 80}, periodSeconds: 1}
  readinessProbe: {httpGet: {path: /, port: 80}, periodSeconds: 1}
  livenessProbe: {exec: {command: [test, -e, /usr/share/nginx/html/index.html]}, periodSeconds: 1, failureThreshold: 2}
- name: slow
  image: `+busybox+`
  command: [sleep, "3600"]
  readinessProbe: {exec: {command: [sh, -c, "test -e /late && exit 0; sleep 20"]}, periodSeconds: 1, timeoutSeconds: 1}
`)
	b.when("probed", "with web ready", func(p *corev1.Pod) bool { return status(p, "web").Ready })
	if p := b.when("probed", "running", func(*corev1.Pod) bool { return true }); isReady(p) {
		t.Error("ready, although a probe that takes too long fails")
	}
	b.output("exec", "probed", "-c", "slow", "--", "touch", "/late")
	b.ready("probed")
	// A liveness probe that fails restarts the container, and only that.
	b.output("exec", "probed", "-c", "web", "--", "rm", "/usr/share/nginx/html/index.html")
	p := b.when("probed", "restarted", func(p *corev1.Pod) bool { return status(p, "web").RestartCount == 1 && isReady(p) })
	if s := status(p, "slow"); s.RestartCount != 0 {
		t.Errorf("slow was restarted: %+v", s)
	}
	if l := status(p, "web").LastTerminationState.Terminated; l == nil || l.ExitCode != 0 {
		t.Errorf("nginx ends with 0 at QUIT: %+v", l)
	}
}

func status(p *corev1.Pod, container string) corev1.ContainerStatus {
	for _, s := range append(p.Status.ContainerStatuses, p.Status.InitContainerStatuses...) {
		if s.Name == container {
			return s
		}
	}
	return corev1.ContainerStatus{}
}

func TestLifecycleHooks(t *testing.T) {
	t.Parallel()
	b := open(t)
	dir := b.Dir + "/hooks-" + b.ns
	b.pod("hooked", `
terminationGracePeriodSeconds: 20
containers:
- name: c
  image: `+busybox+`
  command: [sh, -c, "trap 'echo term >> /host/said; exit' TERM; while :; do sleep 0.1; done"]
  lifecycle:
    postStart: {exec: {command: [sh, -c, "echo started >> /host/said"]}}
    preStop: {exec: {command: [sh, -c, "echo stopping >> /host/said"]}}
  volumeMounts: [{name: host, mountPath: /host}]
volumes: [{name: host, hostPath: {path: "`+dir+`", type: DirectoryOrCreate}}]
`)
	b.deleted(b.ready("hooked"))
	if got, err := os.ReadFile(dir + "/said"); err != nil || string(got) != "started\nstopping\nterm\n" {
		t.Errorf("hooks said %q, %v", got, err)
	}
}

func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	b := open(t)
	for name, code := range map[string]string{"always": "0", "onfailure": "1", "never": "7"} {
		policy := map[string]string{"always": "Always", "onfailure": "OnFailure", "never": "Never"}[name]
		b.pod(name, `
restartPolicy: `+policy+`
terminationGracePeriodSeconds: 1
containers: [{name: c, image: "`+busybox+`", command: [sh, -c, "echo run; exit `+code+`"]}]`)
	}
	for _, name := range []string{"always", "onfailure"} {
		b.when(name, "backing off", func(p *corev1.Pod) bool {
			s := status(p, "c")
			return s.RestartCount >= 2 && s.State.Waiting != nil && s.State.Waiting.Reason == "CrashLoopBackOff"
		})
	}
	p := b.done("never")
	if s := status(p, "c"); s.RestartCount != 0 || s.State.Terminated == nil || s.State.Terminated.ExitCode != 7 || s.State.Terminated.Reason != "Error" {
		t.Errorf("never: %+v", s)
	}
	if out := b.output("logs", "onfailure", "--previous"); !strings.Contains(out, "run") {
		t.Errorf("previous log: %q", out)
	}
}

func TestOOM(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("hungry", `
restartPolicy: Never
containers:
- name: c
  image: `+busybox+`
  command: [sh, -c, "head -c 200000000 /dev/zero | tail"]
  resources: {limits: {memory: 20Mi}}`)
	if s := status(b.done("hungry"), "c").State.Terminated; s == nil || s.Reason != "OOMKilled" {
		t.Errorf("state: %+v", s)
	}
}

func TestNoSuchImageOrCommand(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("noimage", `containers: [{name: c, image: "registry.k8s.io/e2e-test-images/none:1"}]`)
	b.pod("nocommand", `
restartPolicy: Never
containers: [{name: c, image: "`+busybox+`", command: [/none]}]`)
	b.when("noimage", "waiting", func(p *corev1.Pod) bool {
		w := status(p, "c").State.Waiting
		return w != nil && w.Reason == "ImagePullBackOff"
	})
	p := b.done("nocommand")
	if s := status(p, "c").State.Terminated; s == nil || s.ExitCode != 128 && s.ExitCode != 127 || !strings.Contains(s.Message, "/none") {
		t.Errorf("state: %+v", s)
	}
}
