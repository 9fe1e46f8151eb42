package compile_test

import (
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func TestSysctls(t *testing.T) {
	t.Parallel()
	def := compile.DefaultSysctls()
	p := pod()
	p.Linux.Sysctls = map[string]string{
		"net.core.somaxconn": "1024", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20", "net/ipv4/conf/eth0.1/forwarding": "1",
		"net.ipv4.ip_unprivileged_port_start": "80",
	}
	got, err := compile.Sysctls(p, def)
	want := map[string]string{
		"net.core.somaxconn": "1024", "kernel.shm_rmid_forced": "1", "fs.mqueue.msg_max": "20", "net.ipv4.conf.eth0/1.forwarding": "1",
		"net.ipv4.ip_unprivileged_port_start": "80", "net.ipv4.ping_group_range": "0 2147483647",
	}
	if err != nil || !maps.Equal(got, want) {
		t.Errorf("%v %v", got, err)
	}
	if f := compile.SysctlPath("net.ipv4.conf.eth0/1.forwarding"); f != "net/ipv4/conf/eth0.1/forwarding" {
		t.Error(f)
	}
	p = pod()
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
	if got, err = compile.Sysctls(p, def); err != nil || len(got) != 0 {
		t.Errorf("user namespace: %v %v", got, err)
	}
	p = pod()
	p.Linux.SecurityContext.NamespaceOptions.Network = rt.NamespaceMode_NODE
	p.Linux.SecurityContext.NamespaceOptions.Ipc = rt.NamespaceMode_NODE
	if got, err = compile.Sysctls(p, def); err != nil || len(got) != 0 {
		t.Errorf("host network: %v %v", got, err)
	}
	for _, k := range []string{"net.core.somaxconn", "kernel.sem", "fs.mqueue.msg_max"} {
		p.Linux.Sysctls = map[string]string{k: "1"}
		if _, err := compile.Sysctls(p, nil); !isInvalid(err) {
			t.Errorf("%s of the host: %v", k, err)
		}
	}
}

func TestSysctlRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ key, value string }{
		{"kernel.core_pattern", "|/x"}, {"vm.swappiness", "1"}, {"fs.file-max", "1"}, {"kernel.shmfoo", "1"}, {"kernel.domainname", "x"},
		{"net", "1"}, {"net.", "1"}, {"", ""}, {"net..x", "1"}, {"net.//.//.kernel.core_pattern", "1"}, {"net/../kernel/core_pattern", "1"},
		{"net.core.x y", "1"}, {"net.core.\x00", "1"}, {"netx.core", "1"},
		{"net.core.somaxconn", "1\nkernel.core_pattern=x"}, {"net.core.somaxconn", "1\x00"}, {"net.core.somaxconn", strings.Repeat("1", 5000)},
	} {
		p := pod()
		p.Linux.Sysctls = map[string]string{c.key: c.value}
		if got, err := compile.Sysctls(p, nil); !isInvalid(err) || !strings.HasPrefix(err.Error(), "linux.sysctls[") {
			t.Errorf("%q=%q: %v %v", c.key, c.value, got, err)
		}
	}
	p := pod()
	p.Linux.Sysctls = map[string]string{"net.core.somaxconn": "1", "net/core/somaxconn": "2"}
	if _, err := compile.Sysctls(p, nil); !isInvalid(err) {
		t.Errorf("same twice: %v", err)
	}
}

func FuzzSysctls(f *testing.F) {
	f.Add("net.core.somaxconn", "1+kernel.core_pattern=|/x")
	f.Add("net/ipv4/conf/a.b/c", "1")
	f.Add("kernel.sem", "1\r2")
	f.Fuzz(func(t *testing.T, key, value string) {
		p := pod()
		p.Linux.Sysctls = map[string]string{key: value}
		set, err := compile.Sysctls(p, nil)
		if err != nil {
			return
		}
		for k, v := range set {
			file := compile.SysctlPath(k)
			steps := strings.Split(file, "/")
			if slices.Contains(steps, "..") || slices.Contains(steps, "") || slices.Contains(steps, ".") {
				t.Errorf("%q is the file %q", key, file)
			}
			if steps[0] != "net" && (steps[0] != "fs" || steps[1] != "mqueue") && (steps[0] != "kernel" || len(steps) != 2) {
				t.Errorf("%q is the file %q", key, file)
			}
			if v != value || strings.ContainsAny(v, "\n\x00") {
				t.Errorf("%q became %q", value, v)
			}
		}
	})
}

func TestCgroupsPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		parent, id string
		systemd    bool
		want       string
	}{
		{"/kubepods/burstable/podx", "abc", false, "/kubepods/burstable/podx/abc"},
		{"kubepods//x/", "abc", false, "/kubepods/x/abc"},
		{"", "abc", false, "/berth/abc"},
		{"/kubepods.slice/kubepods-podx.slice", "abc", true, "kubepods-podx.slice:berth:abc"},
		{"test.slice", "abc", true, "test.slice:berth:abc"},
		{"", "abc", true, "system.slice:berth:abc"},
		{"/kubepods", "abc", true, ""},
		{"/a.slice", "abc", false, ""},
		{"/a/../../b", "abc", false, ""},
		{"/a\n", "abc", false, ""},
		{"/a", "", false, ""},
		{"/a", "../b", false, ""},
		{"a:b.slice", "abc", true, ""},
		{"a--b.slice", "abc", true, ""},
		{"-a.slice", "abc", true, ""},
		{".slice", "abc", true, ""},
	} {
		got, err := compile.CgroupsPath(c.parent, c.id, c.systemd)
		if got != c.want || (c.want == "") != isInvalid(err) {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
}

func TestResolv(t *testing.T) {
	t.Parallel()
	host := []byte("nameserver 9.9.9.9\n")
	for _, c := range []struct {
		dns  *rt.DNSConfig
		want string
	}{
		{nil, string(host)},
		{&rt.DNSConfig{}, ""},
		{&rt.DNSConfig{Servers: []string{"1.1.1.1", "::1"}, Searches: []string{"a.b", "c"}, Options: []string{"ndots:5", "edns0"}}, "search a.b c\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5 edns0\n"},
		{&rt.DNSConfig{Servers: []string{"1.1.1.1\noptions x", "2.2.2.2"}, Searches: []string{""}}, "nameserver 2.2.2.2\n"},
	} {
		if got := string(compile.Resolv(c.dns, host)); got != c.want {
			t.Errorf("%v: %q", c.dns, got)
		}
	}
}

func TestSignals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		cri   rt.Signal
		image string
		want  syscall.Signal
	}{
		{0, "", syscall.SIGTERM}, {0, "SIGINT", syscall.SIGINT}, {0, "quit", syscall.SIGQUIT}, {0, " 9 ", syscall.SIGKILL}, {0, "64", 64},
		{0, "SIGRTMIN", 34}, {0, "SIGRTMIN+3", 37}, {0, "rtmax-1", 63}, {0, "SIGCLD", syscall.SIGCHLD},
		{0, "65", syscall.SIGTERM}, {0, "0", syscall.SIGTERM}, {0, "-1", syscall.SIGTERM}, {0, "SIGNONE", syscall.SIGTERM}, {0, "SIG", syscall.SIGTERM},
		{0, "SIGRTMIN+99", syscall.SIGTERM}, {0, "SIGRTMIN3", syscall.SIGTERM}, {0, "SIGRTMIN+x", syscall.SIGTERM}, {0, "RTMAX+1", syscall.SIGTERM},
		{10, "SIGTERM", syscall.SIGINT}, {8, "", syscall.SIGHUP}, {35, "", 34}, {38, "", 37}, {50, "", 49}, {51, "", 50}, {65, "", 64},
	} {
		got := compile.StopSignal(&rt.ContainerConfig{StopSignal: c.cri}, compile.ImageConfig{StopSignal: c.image})
		if got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

// Numbers of the CRI's enum and signals map to each other, whatever the names.
func TestWireSignal(t *testing.T) {
	t.Parallel()
	for n := rt.Signal(1); n <= 65; n++ {
		sig := compile.StopSignal(&rt.ContainerConfig{StopSignal: n}, compile.ImageConfig{})
		back := compile.WireSignal(sig)
		if compile.StopSignal(&rt.ContainerConfig{StopSignal: back}, compile.ImageConfig{}) != sig {
			t.Errorf("%d is signal %d is %d", n, sig, back)
		}
		if back != n && n != 5 && n != 12 && n != 15 { // CLD, IOT, POLL have other names too
			t.Errorf("%d is signal %d is %d", n, sig, back)
		}
	}
	for sig := syscall.Signal(1); sig <= 64; sig++ {
		if n := compile.WireSignal(sig); (n == 0) != (sig == 32 || sig == 33) {
			t.Errorf("signal %d is %d", sig, n)
		}
	}
	if compile.WireSignal(0) != 0 || compile.WireSignal(99) != 0 {
		t.Error("no signal has a value")
	}
}
