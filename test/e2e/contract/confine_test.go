package contract

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// refused creates a container that must not come to be, and whose error names what is wrong.
func refused(t *testing.T, n *harness.Node, p *harness.Pod, cfg *rt.ContainerConfig, names string) {
	t.Helper()
	id, err := n.Runtime.CreateContainer(t.Context(), p.ID, cfg, p.Config)
	if err == nil {
		t.Errorf("%s: made container %s", cfg.Metadata.Name, id)
	} else if !strings.Contains(err.Error(), names) || !strings.Contains(err.Error(), "InvalidArgument") {
		t.Errorf("%s: %v, want InvalidArgument and %q", cfg.Metadata.Name, err, names)
	}
}

// field reads a line of proc(5)'s status.
func field(t *testing.T, status, name string) string {
	t.Helper()
	for l := range strings.Lines(status) {
		if v, ok := strings.CutPrefix(l, name+":"); ok {
			return strings.TrimSpace(v)
		}
	}
	t.Fatalf("no %s in %q", name, status)
	return ""
}

// Privileged: the host's devices, writable /sys, cgroups and /proc, nothing masked, every capability there is, no seccomp; only
// in a privileged pod.
func TestPrivileged(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("privileged", n.Dir)
	pod.Linux.SecurityContext.Privileged = true
	p := n.Run(t, pod)
	cfg := harness.Command("c", "sleep 1000")
	sc := cfg.Linux.SecurityContext
	sc.Privileged = true
	// What is sent with it all the same has no effect.
	sc.MaskedPaths, sc.ReadonlyPaths = []string{"/proc/timer_list", "/proc/keys"}, []string{"/proc/sys"}
	sc.Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
	sc.Capabilities = &rt.Capability{DropCapabilities: []string{"ALL"}}
	id := p.Start(cfg)
	own, err := os.ReadFile("/proc/self/status")
	if err != nil {
		t.Fatal(err)
	}
	inside := n.Exec(t, id, "cat", "/proc/1/status")
	for _, set := range []string{"CapBnd", "CapEff", "CapPrm"} {
		// What the daemon itself may not have it can't give.
		if got, want := field(t, inside, set), field(t, string(own), "CapBnd"); got != want {
			t.Errorf("%s %s, want %s", set, got, want)
		}
	}
	n.Says(t, id, map[string]string{
		"grep Seccomp: /proc/1/status":                                                        "Seccomp:\t0\n",
		"awk '$5==\"/sys\"{print $6}' /proc/self/mountinfo | cut -d, -f1":                     "rw\n",
		"awk '$5~\"^/sys/fs/cgroup\"{print $6}' /proc/self/mountinfo | cut -d, -f1 | sort -u": "rw\n",
		"echo 7 >/proc/sys/net/ipv4/conf/all/tag && cat /proc/sys/net/ipv4/conf/all/tag":      "7\n",
		"mknod /tmp/own c 1 3 && echo x >/tmp/own && echo any device":                         "any device\n",
		"awk '$5==\"/proc/timer_list\"||$5==\"/proc/keys\"{print $5}' /proc/self/mountinfo":   "",
	})
	devices, err := filepath.Glob("/dev/*")
	if err != nil {
		t.Fatal(err)
	}
	seen := strings.Fields(n.Exec(t, id, "sh", "-c", "ls -d /dev/*; true"))
	count := 0
	for _, d := range devices {
		st, err := os.Lstat(d)
		if err != nil || st.Mode()&os.ModeDevice == 0 || d == "/dev/console" {
			continue
		}
		count++
		if !slices.Contains(seen, d) {
			t.Errorf("the host's %s is not there", d)
		}
	}
	if count < 6 {
		t.Errorf("only %d devices were compared", count)
	}
	plain := n.Run(t, harness.PodConfig("plain", n.Dir))
	bad := harness.Command("bad", "sleep 1000")
	bad.Linux.SecurityContext.Privileged = true
	refused(t, n, plain, bad, "privileged")
}

// Seccomp: none by default, the runtime's, none, one's own, each also by its old name; a profile reaches exec'ed processes; a
// privileged container has none.
func TestSeccomp(t *testing.T) {
	n := harness.Get(t)
	dir := filepath.Join(n.Dir, "seccomp")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	own, broken := filepath.Join(dir, "own.json"), filepath.Join(dir, "broken.json")
	for name, text := range map[string]string{own: `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO"}]}`, broken: "{"} {
		if err := os.WriteFile(name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	pod := harness.PodConfig("seccomp", n.Dir)
	pod.Linux.SecurityContext.Privileged = true
	p := n.Run(t, pod)
	profile := func(kind rt.SecurityProfile_ProfileType, ref string) *rt.SecurityProfile {
		return &rt.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	const none, usual, mine = "0 made", "2 made", "2 not"
	for _, c := range []struct {
		name       string
		new        *rt.SecurityProfile
		old        string
		privileged bool
		want       string
	}{
		{"nothing", nil, "", false, none},
		{"default", profile(rt.SecurityProfile_RuntimeDefault, ""), "", false, usual},
		{"unconfined", profile(rt.SecurityProfile_Unconfined, ""), "", false, none},
		{"localhost", profile(rt.SecurityProfile_Localhost, own), "", false, mine},
		{"old-default", nil, "runtime/default", false, usual},
		{"old-docker", nil, "docker/default", false, usual},
		{"old-unconfined", nil, "unconfined", false, none},
		{"old-localhost", nil, "localhost/" + own, false, mine},
		{"both", profile(rt.SecurityProfile_Unconfined, ""), "localhost/" + own, false, none},
		{"privileged", profile(rt.SecurityProfile_Localhost, own), "", true, none},
	} {
		cfg := harness.Command(c.name, "sleep 1000")
		sc := cfg.Linux.SecurityContext
		sc.Seccomp, sc.Privileged = c.new, c.privileged
		//lint:ignore SA1019 Deprecated, and still to be honoured.
		sc.SeccompProfilePath = c.old
		id := p.Start(cfg)
		for _, pid := range []string{"1", "self"} {
			got := n.Exec(t, id, "sh", "-c", fmt.Sprintf("echo $(grep Seccomp: /proc/%s/status | cut -f2) $(mkdir /tmp/%s 2>/dev/null && echo made || echo not)", pid, pid))
			if strings.TrimSpace(got) != c.want {
				t.Errorf("%s, process %s: %q, want %q", c.name, pid, got, c.want)
			}
		}
	}
	for name, ref := range map[string]string{"broken": broken, "missing": filepath.Join(dir, "missing.json"), "relative": "own.json", "empty": ""} {
		cfg := harness.Command(name, "sleep 1000")
		cfg.Linux.SecurityContext.Seccomp = profile(rt.SecurityProfile_Localhost, ref)
		refused(t, n, p, cfg, "seccomp")
	}
}

// AppArmor: the runtime's profile by default, none when unconfined or privileged, one's own by either name; one that is not
// loaded is refused.
func TestAppArmor(t *testing.T) {
	n := harness.Get(t)
	if b, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err != nil || !strings.HasPrefix(string(b), "Y") {
		t.Skip("needs a host with AppArmor")
	}
	pod := harness.PodConfig("apparmor", n.Dir)
	pod.Linux.SecurityContext.Privileged = true
	p := n.Run(t, pod)
	profile := func(kind rt.SecurityProfile_ProfileType, ref string) *rt.SecurityProfile {
		return &rt.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
	}
	for _, c := range []struct {
		name       string
		new        *rt.SecurityProfile
		old        string
		privileged bool
		want       string
	}{
		{"nothing", nil, "", false, "berth-default (enforce)"},
		{"default", profile(rt.SecurityProfile_RuntimeDefault, ""), "", false, "berth-default (enforce)"},
		{"unconfined", profile(rt.SecurityProfile_Unconfined, ""), "", false, "unconfined"},
		{"localhost", profile(rt.SecurityProfile_Localhost, "berth-default"), "", false, "berth-default (enforce)"},
		{"prefixed", profile(rt.SecurityProfile_Localhost, "localhost/berth-default"), "", false, "berth-default (enforce)"},
		{"old-default", nil, "runtime/default", false, "berth-default (enforce)"},
		{"old-unconfined", nil, "unconfined", false, "unconfined"},
		{"old-localhost", nil, "localhost/berth-default", false, "berth-default (enforce)"},
		{"both", profile(rt.SecurityProfile_Unconfined, ""), "runtime/default", false, "unconfined"},
		{"privileged", nil, "", true, "unconfined"},
	} {
		cfg := harness.Command(c.name, "sleep 1000")
		sc := cfg.Linux.SecurityContext
		sc.Apparmor, sc.Privileged = c.new, c.privileged
		//lint:ignore SA1019 Deprecated, and still to be honoured.
		sc.ApparmorProfile = c.old
		if got := strings.TrimSpace(n.Exec(t, p.Start(cfg), "cat", "/proc/1/attr/current")); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
	}
	empty := harness.Command("empty", "sleep 1000")
	empty.Linux.SecurityContext.Apparmor = profile(rt.SecurityProfile_Localhost, "")
	refused(t, n, p, empty, "apparmor")
	// Which profiles are loaded only the runtime knows, and that only when it is about to use one.
	missing := harness.Command("missing", "sleep 1000")
	missing.Linux.SecurityContext.Apparmor = profile(rt.SecurityProfile_Localhost, "no-such-profile")
	if _, err := n.Runtime.CreateContainer(t.Context(), p.ID, missing, p.Config); err == nil || !strings.Contains(err.Error(), "AppArmor profile no-such-profile is not loaded") {
		t.Errorf("a profile that is not loaded: %v", err)
	}
}

// SELinux: containers of a pod share a level, pods do not; what is asked for is put in; privileged containers are not kept apart.
func TestSELinux(t *testing.T) {
	n := harness.Get(t)
	if _, err := os.Stat("/sys/fs/selinux/enforce"); err != nil {
		t.Skip("needs a host with SELinux")
	}
	label := func(p *harness.Pod, name string, o *rt.SELinuxOption) []string {
		cfg := harness.Command(name, "sleep 1000")
		cfg.Linux.SecurityContext.SelinuxOptions = o
		return strings.SplitN(strings.TrimRight(n.Exec(t, p.Start(cfg), "cat", "/proc/1/attr/current"), "\x00\n"), ":", 4)
	}
	p, q := n.Run(t, harness.PodConfig("one", n.Dir)), n.Run(t, harness.PodConfig("two", n.Dir))
	a, b, c := label(p, "a", nil), label(p, "b", nil), label(q, "c", nil)
	if len(a) != 4 || !slices.Equal(a, b) || slices.Equal(a, c) || a[2] != c[2] {
		t.Errorf("labels %q and %q of a pod, %q of another", a, b, c)
	}
	if own := label(p, "own", &rt.SELinuxOption{Level: "s0:c1,c2"}); own[3] != "s0:c1,c2" || own[2] != a[2] {
		t.Errorf("a level of its own: %q", own)
	}
	bad := harness.Command("bad", "sleep 1000")
	bad.Linux.SecurityContext.SelinuxOptions = &rt.SELinuxOption{Type: "a:b"}
	refused(t, n, p, bad, "selinux_options.type")
}

// No new privileges: a set-user-ID program of root's gives none.
func TestNoNewPrivileges(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("nnp", n.Dir))
	for name, nnp := range map[string]bool{"without": false, "with": true} {
		cfg := harness.Command(name, "")
		cfg.Image.Image, cfg.Command = "registry.k8s.io/e2e-test-images/nonewprivs:1.3", nil
		cfg.Linux.SecurityContext.RunAsUser, cfg.Linux.SecurityContext.NoNewPrivs = &rt.Int64Value{Value: 1000}, nnp
		n.Exited(t, p.Start(cfg))
		want := map[bool]string{false: "Effective uid: 0\n", true: "Effective uid: 1000\n"}[nnp]
		if got := p.Log(name+".log", "stdout"); got != want {
			t.Errorf("no_new_privs %v: %q", nnp, got)
		}
	}
}

// Namespaces of the host, when they are asked for: processes, IPC objects and shared memory, links and the host's name.
func TestHostNamespaces(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("host", n.Dir)
	pod.Hostname = ""
	opts := &rt.NamespaceOption{Network: rt.NamespaceMode_NODE, Pid: rt.NamespaceMode_NODE, Ipc: rt.NamespaceMode_NODE}
	pod.Linux.SecurityContext.NamespaceOptions = opts
	p := n.Run(t, pod)
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.SecurityContext.NamespaceOptions = opts
	id := p.Start(cfg)
	other := n.Run(t, harness.PodConfig("own", n.Dir)).Start(harness.Command("c", "sleep 1000"))
	for _, ns := range []string{"net", "pid", "ipc", "uts"} {
		host, err := os.Readlink("/proc/self/ns/" + ns)
		if err != nil {
			t.Fatal(err)
		}
		if got := strings.TrimSpace(n.Exec(t, id, "readlink", "/proc/self/ns/"+ns)); got != host {
			t.Errorf("%s namespace %s, the host's is %s", ns, got, host)
		}
		if got := strings.TrimSpace(n.Exec(t, other, "readlink", "/proc/self/ns/"+ns)); got == host {
			t.Errorf("%s namespace of a pod that did not ask is the host's", ns)
		}
	}
	for _, ns := range []string{"mnt", "cgroup"} {
		if host, _ := os.Readlink("/proc/self/ns/" + ns); ns == "mnt" && strings.TrimSpace(n.Exec(t, id, "readlink", "/proc/self/ns/"+ns)) == host {
			t.Errorf("the %s namespace is the host's", ns)
		}
	}
	name, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	n.Says(t, id, map[string]string{
		"hostname; echo $HOSTNAME; cat /etc/hostname":                                 name + "\n" + name + "\n" + name + "\n",
		fmt.Sprintf("tr '\\0' ' ' </proc/%d/cmdline | grep -c contract", os.Getpid()): "1\n",
	})
	file := fmt.Sprintf("/dev/shm/berth-%d", os.Getpid())
	if err := os.WriteFile(file, []byte("host's"), 0o644); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(file)
	n.Says(t, id, map[string]string{"cat " + file: "host's"})
	if out, _, err := n.Runtime.ExecSync(t.Context(), other, []string{"cat", file}, 0); err == nil {
		t.Errorf("a pod with IPC of its own reads the host's shared memory: %q", out)
	}
}

// User namespaces that can't be are refused, and nothing falls back to none.
func TestUserNamespaceRefusals(t *testing.T) {
	n := harness.Get(t)
	one := []*rt.IDMapping{{HostId: 1000, Length: 65536}}
	for name, u := range map[string]*rt.UserNamespace{
		"two maps":            {Mode: rt.NamespaceMode_POD, Uids: append(slices.Clone(one), &rt.IDMapping{ContainerId: 65536, HostId: 200000, Length: 10}), Gids: one},
		"no uids":             {Mode: rt.NamespaceMode_POD, Gids: one},
		"no gids":             {Mode: rt.NamespaceMode_POD, Uids: one},
		"no maps":             {Mode: rt.NamespaceMode_POD},
		"0 is not mapped":     {Mode: rt.NamespaceMode_POD, Uids: []*rt.IDMapping{{ContainerId: 1, HostId: 1000, Length: 10}}, Gids: one},
		"nothing is mapped":   {Mode: rt.NamespaceMode_POD, Uids: []*rt.IDMapping{{HostId: 1000}}, Gids: one},
		"mode CONTAINER":      {Mode: rt.NamespaceMode_CONTAINER, Uids: one, Gids: one},
		"mode TARGET":         {Mode: rt.NamespaceMode_TARGET, Uids: one, Gids: one},
		"maps without a mode": {Mode: rt.NamespaceMode_NODE, Uids: one, Gids: one},
	} {
		cfg := harness.PodConfig("refused", n.Dir)
		cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = u
		id, err := n.Runtime.RunPodSandbox(t.Context(), cfg, "")
		if err == nil {
			t.Errorf("%s: made pod %s", name, id)
			n.Runtime.RemovePodSandbox(t.Context(), id)
		} else if !strings.Contains(err.Error(), "InvalidArgument") || !strings.Contains(err.Error(), "userns_options") {
			t.Errorf("%s: %v", name, err)
		}
	}
	cfg := harness.PodConfig("mapped", n.Dir)
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: one, Gids: one}
	p := n.Run(t, cfg)
	n.Pull(t, harness.Busybox)
	other := harness.Command("other", "sleep 1000")
	two := []*rt.IDMapping{{HostId: 2000, Length: 65536}}
	other.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: two, Gids: two}
	refused(t, n, p, other, "userns_options")
}

// The host's network with a user namespace of the pod's own: promised or refused, nothing between.
func TestUserNamespaceHostNetwork(t *testing.T) {
	n := harness.Get(t)
	s, err := n.Runtime.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	cfg := harness.PodConfig("usernshost", n.Dir)
	maps := []*rt.IDMapping{{HostId: 1000, Length: 65536}}
	opts := cfg.Linux.SecurityContext.NamespaceOptions
	opts.Network, opts.UsernsOptions = rt.NamespaceMode_NODE, &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: maps, Gids: maps}
	if !s.GetFeatures().GetUserNamespacesHostNetwork() {
		if id, err := n.Runtime.RunPodSandbox(t.Context(), cfg, ""); err == nil {
			t.Errorf("pod %s was made although the feature is not promised", id)
			n.Runtime.RemovePodSandbox(t.Context(), id)
		}
		return
	}
	p := n.Run(t, cfg)
	c := harness.Command("c", "sleep 1000")
	c.Linux.SecurityContext.NamespaceOptions = opts
	id := p.Start(c)
	host, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	n.Says(t, id, map[string]string{
		"cat /proc/self/uid_map | tr -s ' '":                     " 0 1000 65536\n",
		"readlink /proc/self/ns/net":                             host + "\n",
		"ls -d /sys/class/net/lo && stat -c %u /etc/resolv.conf": "/sys/class/net/lo\n0\n",
		"touch /sys/kernel/x 2>/dev/null || echo ro":             "ro\n",
		"ip link add x0 type bridge 2>/dev/null || echo no":      "no\n",
	})
}
