package kubelet

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// check runs shell commands in a pod and compares what they print.
func (b bench) check(pod string, want map[string]string) {
	b.Helper()
	for script, w := range want {
		if got := b.sh(pod, script); got != w {
			b.Errorf("%s: %s: %q, want %q", pod, script, got, w)
		}
	}
}

func TestSecurityContext(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("strict", `
terminationGracePeriodSeconds: 1
securityContext: {runAsUser: 1234, runAsGroup: 2345, fsGroup: 3456, supplementalGroups: [4567], runAsNonRoot: true, seccompProfile: {type: RuntimeDefault},
  sysctls: [{name: net.ipv4.ip_unprivileged_port_start, value: "0"}]}
containers:
- name: c
  image: `+busybox+`
  command: [sleep, "3600"]
  securityContext: {allowPrivilegeEscalation: false, readOnlyRootFilesystem: true, capabilities: {drop: [ALL], add: [NET_BIND_SERVICE]}}
  volumeMounts: [{name: v, mountPath: /v}]
volumes: [{name: v, emptyDir: {}}]
`)
	b.pod("mighty", `
terminationGracePeriodSeconds: 1
containers: [{name: c, image: "`+busybox+`", command: [sleep, "3600"], securityContext: {privileged: true}}]`)
	b.pod("plain", `
terminationGracePeriodSeconds: 1
containers: [{name: c, image: "`+busybox+`", command: [sleep, "3600"]}]`)
	b.pod("refused", `
securityContext: {runAsNonRoot: true}
containers: [{name: c, image: "`+busybox+`", command: [sleep, "3600"]}]`)
	b.ready("strict")
	b.check("strict", map[string]string{
		"id -u; id -g; id -G | tr ' ' '\\n' | sort -n | tr '\\n' ' '":           "1234\n2345\n2345 3456 4567",
		"touch /x 2>&1 | grep -c Read-only":                                     "1",
		"touch /v/x && stat -c %g /v/x":                                         "3456",
		"grep -E '^(NoNewPrivs|Seccomp):' /proc/self/status | tr '\\t\\n' '  '": "NoNewPrivs: 1 Seccomp: 2",
		"grep CapBnd /proc/1/status | cut -f2":                                  "0000000000000400",
		"cat /proc/sys/net/ipv4/ip_unprivileged_port_start":                     "0",
		"unshare -U true 2>&1 | grep -c -i 'not permitted'":                     "1",
	})
	b.ready("mighty")
	b.check("mighty", map[string]string{
		"grep Seccomp: /proc/self/status | cut -f2":                                                     "0",
		"mount -t tmpfs x /mnt && echo mounted":                                                         "mounted",
		"test -w /proc/sys/kernel/domainname && test -e /dev/loop-control -o -e /dev/kmsg && echo open": "open",
		"head -c 1 /proc/timer_list | wc -c":                                                            "1",
	})
	b.ready("plain")
	b.check("plain", map[string]string{
		"mount -t tmpfs x /mnt 2>&1 | grep -c -i -e denied -e permitted":                        "1",
		"(: > /proc/sys/kernel/domainname) 2>&1 | grep -c Read-only":                            "1",
		"touch /sys/x 2>&1 | grep -c Read-only":                                                 "1",
		"cat /proc/timer_list /proc/keys /sys/firmware/* 2>/dev/null | wc -c; ls /sys/firmware": "0",
	})
	b.when("refused", "refused", func(p *corev1.Pod) bool {
		w := status(p, "c").State.Waiting
		return w != nil && w.Reason == "CreateContainerConfigError"
	})
}

func TestNamespaces(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("shared", `
terminationGracePeriodSeconds: 1
shareProcessNamespace: true
hostname: shared-name
containers:
- {name: a, image: "`+busybox+`", command: [sh, -c, "echo from-a > /dev/shm/x; sleep 3600"]}
- {name: b, image: "`+nginx+`"}`)
	b.pod("host", `
terminationGracePeriodSeconds: 1
hostNetwork: true
hostIPC: true
hostPID: true
containers: [{name: c, image: "`+busybox+`", command: [sleep, "3600"]}]`)
	b.pod("users", `
terminationGracePeriodSeconds: 1
hostUsers: false
containers:
- name: c
  image: `+busybox+`
  command: [sleep, "3600"]
  volumeMounts: [{name: v, mountPath: /v}]
volumes: [{name: v, emptyDir: {}}]`)
	b.ready("shared")
	b.check("shared", map[string]string{
		"ps | grep -c '[n]ginx: master'": "1",
		"hostname":                       "shared-name",
		"cat /dev/shm/x":                 "from-a",
	})
	if got := strings.TrimSpace(b.output("exec", "shared", "-c", "b", "--", "cat", "/dev/shm/x")); got != "from-a" {
		t.Errorf("shm of the other container: %q", got)
	}
	p := b.ready("host")
	if p.Status.PodIP != p.Status.HostIP {
		t.Errorf("pod %s, node %s", p.Status.PodIP, p.Status.HostIP)
	}
	b.check("host", map[string]string{"ps | grep -c '[k]ube-apiserver --etcd'": "1", "ip address show node0 | grep -c 172.31.77.10": "1"})
	b.ready("users")
	b.check("users", map[string]string{
		"id -u": "0",
		"awk '$1 == 0 && $2 > 65535 && $3 == 65536 {print \"mapped\"}' /proc/self/uid_map": "mapped",
		"touch /v/x && stat -c %u /v/x": "0",
	})
}

func TestRuntimeClass(t *testing.T) {
	t.Parallel()
	b := open(t)
	classes := b.Client.NodeV1().RuntimeClasses()
	for class, handler := range map[string]string{"ours-" + b.ns: "berth", "others-" + b.ns: "test-handler", "nobodys-" + b.ns: "nobody"} {
		rc := &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: class}, Handler: handler}
		if _, err := classes.Create(t.Context(), rc, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { classes.Delete(context.Background(), class, metav1.DeleteOptions{}) })
	}
	b.pod("ours", "runtimeClassName: ours-"+b.ns+"\nterminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: \""+busybox+"\", command: [sleep, \"3600\"]}]")
	b.pod("others", "runtimeClassName: others-"+b.ns+"\nterminationGracePeriodSeconds: 1\ncontainers: [{name: c, image: \""+busybox+"\", command: [sleep, \"3600\"]}]")
	b.pod("nobodys", "runtimeClassName: nobodys-"+b.ns+"\ncontainers: [{name: c, image: \""+busybox+"\", command: [sleep, \"3600\"]}]")
	b.ready("ours")
	b.ready("others")
	if got := b.sh("others", "echo up"); got != "up" {
		t.Errorf("exec under the other handler: %q", got)
	}
	b.event("nobodys", "FailedCreatePodSandBox", "nobody")
}

func TestResources(t *testing.T) {
	t.Parallel()
	b := open(t)
	b.pod("bounded", `
terminationGracePeriodSeconds: 1
containers:
- name: c
  image: `+busybox+`
  command: [sleep, "3600"]
  resources: {requests: {cpu: 100m, memory: 32Mi}, limits: {cpu: 500m, memory: 64Mi}}
  resizePolicy: [{resourceName: cpu, restartPolicy: NotRequired}, {resourceName: memory, restartPolicy: NotRequired}]`)
	before := b.ready("bounded")
	limits := "cat /sys/fs/cgroup/memory/memory.limit_in_bytes /sys/fs/cgroup/cpu/cpu.cfs_quota_us /sys/fs/cgroup/cpu/cpu.shares 2>/dev/null || " +
		"cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max"
	if got := strings.Fields(b.sh("bounded", limits)); len(got) < 2 || got[0] != "67108864" || got[1] != "50000" {
		t.Errorf("limits: %q", got)
	}
	patch := `{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"200m","memory":"48Mi"},"limits":{"cpu":"1","memory":"96Mi"}}}]}}`
	if _, err := b.Client.CoreV1().Pods(b.ns).Patch(t.Context(), "bounded", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "resize"); err != nil {
		t.Fatal(err)
	}
	after := b.when("bounded", "resized", func(p *corev1.Pod) bool {
		s := status(p, "c")
		return s.Resources != nil && s.Resources.Limits.Memory().Value() == 96<<20 && s.Resources.Limits.Cpu().MilliValue() == 1000
	})
	if got := strings.Fields(b.sh("bounded", limits)); len(got) < 2 || got[0] != "100663296" || got[1] != "100000" {
		t.Errorf("limits after: %q", got)
	}
	if a, z := status(before, "c"), status(after, "c"); a.ContainerID != z.ContainerID || z.RestartCount != 0 {
		t.Errorf("container was restarted: %+v", z)
	}
}
