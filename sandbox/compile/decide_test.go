package compile_test

import (
	"encoding/base64"
	"maps"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func TestCapabilities(t *testing.T) {
	t.Parallel()
	all, def := compile.KnownCaps(), compile.DefaultCaps()
	without := func(l []string, drop ...string) []string {
		return slices.DeleteFunc(slices.Clone(l), func(s string) bool { return slices.Contains(drop, s) })
	}
	for _, c := range []struct {
		add, drop, ambient string
		want, wantAmbient  []string
	}{
		{"", "", "", def, nil},
		{"SYS_ADMIN", "", "", append([]string{"CAP_SYS_ADMIN"}, def...), nil},
		{"cap_sys_time CAP_CHOWN", "chown", "", append(without(def, "CAP_CHOWN"), "CAP_SYS_TIME"), nil},
		{"ALL", "", "", all, nil},
		{"all", "NET_RAW MKNOD", "", without(all, "CAP_NET_RAW", "CAP_MKNOD"), nil},
		{"", "ALL", "", nil, nil},
		{"NET_ADMIN KILL", "All", "", []string{"CAP_NET_ADMIN", "CAP_KILL"}, nil},
		{"ALL", "ALL", "", nil, nil},
		{"ALL KILL", "ALL", "", []string{"CAP_KILL"}, nil},
		{"", "ALL", "NET_BIND_SERVICE", []string{"CAP_NET_BIND_SERVICE"}, []string{"CAP_NET_BIND_SERVICE"}},
		{"", "KILL", "KILL CHOWN", without(def, "CAP_KILL"), []string{"CAP_CHOWN"}},
		{"", "ALL", "ALL", all, all},
	} {
		in := input()
		sec(&in).Capabilities = &rt.Capability{
			AddCapabilities: strings.Fields(c.add), DropCapabilities: strings.Fields(c.drop), AddAmbientCapabilities: strings.Fields(c.ambient),
		}
		spec, err := compile.Container(in)
		if err != nil {
			t.Fatal(err)
		}
		got := spec.Process.Capabilities
		if !same(got.Bounding, c.want) || !same(got.Effective, c.want) || !same(got.Permitted, c.want) {
			t.Errorf("add %q drop %q: %v", c.add, c.drop, got.Bounding)
		}
		if !same(got.Ambient, c.wantAmbient) || !same(got.Inheritable, c.wantAmbient) {
			t.Errorf("add %q drop %q: ambient %v, inheritable %v", c.add, c.drop, got.Ambient, got.Inheritable)
		}
	}
}

func same(a, b []string) bool {
	return slices.Equal(slices.Sorted(slices.Values(a)), slices.Sorted(slices.Values(b)))
}

// A capability the kernel lacks is left out, not an error.
func TestOldKernelCaps(t *testing.T) {
	t.Parallel()
	in := input()
	in.Host.Caps = []string{"CAP_CHOWN", "CAP_KILL"}
	in.Options.DefaultCaps = []string{"CAP_KILL"}
	sec(&in).Capabilities = &rt.Capability{AddCapabilities: []string{"BPF", "CHOWN"}}
	spec, err := compile.Container(in)
	if err != nil || !slices.Equal(spec.Process.Capabilities.Bounding, []string{"CAP_CHOWN", "CAP_KILL"}) {
		t.Errorf("%v %v", spec, err)
	}
}

func TestSeccomp(t *testing.T) {
	t.Parallel()
	const (
		none      = rt.SecurityProfile_Unconfined
		def       = rt.SecurityProfile_RuntimeDefault
		local     = rt.SecurityProfile_Localhost
		allow     = `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["chmod"],"action":"SCMP_ACT_ERRNO","excludes":{"caps":["CAP_SYS_ADMIN"]}}]}`
		unlimited = "" // nothing
	)
	for _, c := range []struct {
		name  string
		field *rt.SecurityProfile
		old   string
		bytes string
		want  string // default action, "" none, "!" error
	}{
		{"nil", nil, "", "", ""},
		{"unconfined", &rt.SecurityProfile{ProfileType: none}, "runtime/default", "", ""},
		{"default", &rt.SecurityProfile{ProfileType: def}, "", "", "SCMP_ACT_ERRNO"},
		{"old default", nil, "runtime/default", "", "SCMP_ACT_ERRNO"},
		{"docker default", nil, "docker/default", "", "SCMP_ACT_ERRNO"},
		{"old unconfined", nil, "unconfined", "", ""},
		{"local", &rt.SecurityProfile{ProfileType: local, LocalhostRef: "/p.json"}, "", allow, "SCMP_ACT_ALLOW"},
		{"local prefix", &rt.SecurityProfile{ProfileType: local, LocalhostRef: "localhost//p.json"}, "", allow, "SCMP_ACT_ALLOW"},
		{"old local", nil, "localhost//p.json", allow, "SCMP_ACT_ALLOW"},
		{"missing", &rt.SecurityProfile{ProfileType: local, LocalhostRef: "/p.json"}, "", unlimited, "!"},
		{"empty object", nil, "localhost//p.json", `{}`, "!"},
		{"not json", nil, "localhost//p.json", `nope`, "!"},
		{"bad action", nil, "localhost//p.json", `{"defaultAction":"ALLOW"}`, "!"},
		{"bad rule", nil, "localhost//p.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["x"],"action":"?"}]}`, "!"},
		{"nameless rule", nil, "localhost//p.json", `{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"action":"SCMP_ACT_LOG"}]}`, "!"},
		{"no default", nil, "localhost//p.json", `{"syscalls":[{"names":["x"],"action":"SCMP_ACT_LOG"}]}`, "!"},
	} {
		in := input()
		sec(&in).Seccomp, sec(&in).SeccompProfilePath, in.Seccomp = c.field, c.old, []byte(c.bytes)
		spec, err := compile.Container(in)
		switch {
		case c.want == "!":
			if !isInvalid(err) || !strings.HasPrefix(err.Error(), "linux.security_context.seccomp") {
				t.Errorf("%s: %v", c.name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", c.name, err)
		case c.want == "":
			if spec.Linux.Seccomp != nil {
				t.Errorf("%s: confined", c.name)
			}
		case spec.Linux.Seccomp == nil || string(spec.Linux.Seccomp.DefaultAction) != c.want:
			t.Errorf("%s: %+v", c.name, spec.Linux.Seccomp)
		}
	}
}

// The default profile follows the container's capabilities.
func TestSeccompByCapability(t *testing.T) {
	t.Parallel()
	allows := func(l *specs.LinuxSeccomp, call string) bool {
		return slices.ContainsFunc(l.Syscalls, func(s specs.LinuxSyscall) bool {
			return s.Action == specs.ActAllow && len(s.Args) == 0 && slices.Contains(s.Names, call)
		})
	}
	for _, c := range []struct {
		caps []string
		want bool
	}{{nil, false}, {[]string{"SYS_ADMIN"}, true}} {
		in := input()
		sec(&in).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
		sec(&in).Capabilities = &rt.Capability{AddCapabilities: c.caps}
		spec, err := compile.Container(in)
		if err != nil {
			t.Fatal(err)
		}
		if got := allows(spec.Linux.Seccomp, "mount"); got != c.want {
			t.Errorf("caps %v: mount allowed %v", c.caps, got)
		}
		if !allows(spec.Linux.Seccomp, "read") {
			t.Error("read is not allowed")
		}
	}
}

func TestNoSeccompHost(t *testing.T) {
	t.Parallel()
	in := input()
	in.Host.NoSeccomp = true
	sec(&in).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
	if spec, err := compile.Container(in); err != nil || spec.Linux.Seccomp != nil {
		t.Error(err)
	}
	sec(&in).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost, LocalhostRef: "/p"}
	if _, err := compile.Container(in); !isInvalid(err) {
		t.Error(err)
	}
}

func TestSeccompFile(t *testing.T) {
	t.Parallel()
	cc := container()
	sc := cc.Linux.SecurityContext
	for _, c := range []struct {
		old, want string
		priv      bool
	}{{"", "", false}, {"localhost//a/b.json", "/a/b.json", false}, {"localhost//a", "", true}, {"unconfined", "", false}} {
		sc.SeccompProfilePath, sc.Privileged = c.old, c.priv
		if got, err := compile.SeccompFile(cc); err != nil || got != c.want {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
	sc.SeccompProfilePath, sc.Privileged = "localhost/a", false
	if _, err := compile.SeccompFile(cc); !isInvalid(err) {
		t.Error(err)
	}
}

func TestAppArmor(t *testing.T) {
	t.Parallel()
	const (
		none  = rt.SecurityProfile_Unconfined
		def   = rt.SecurityProfile_RuntimeDefault
		local = rt.SecurityProfile_Localhost
	)
	for _, c := range []struct {
		host  bool
		field *rt.SecurityProfile
		old   string
		want  string
	}{
		{true, nil, "", compile.AppArmorDefault},
		{true, nil, "runtime/default", compile.AppArmorDefault},
		{true, nil, "unconfined", ""},
		{true, nil, "localhost/mine", "mine"},
		{true, &rt.SecurityProfile{ProfileType: def}, "unconfined", compile.AppArmorDefault},
		{true, &rt.SecurityProfile{ProfileType: none}, "localhost/mine", ""},
		{true, &rt.SecurityProfile{ProfileType: local, LocalhostRef: "localhost/mine"}, "", "mine"},
		{false, nil, "", ""},
		{false, &rt.SecurityProfile{ProfileType: def}, "", ""},
		{false, &rt.SecurityProfile{ProfileType: local, LocalhostRef: "mine"}, "", "!"},
		{false, nil, "localhost/mine", "!"},
	} {
		in := input()
		in.Host.AppArmor = c.host
		sec(&in).Apparmor, sec(&in).ApparmorProfile = c.field, c.old
		spec, err := compile.Container(in)
		if c.want == "!" {
			if !isInvalid(err) {
				t.Errorf("%+v: %v", c, err)
			}
			continue
		}
		if err != nil || spec.Process.ApparmorProfile != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	in := input()
	in.Host.AppArmor, in.Options.AppArmorProfile = true, "own"
	if spec, err := compile.Container(in); err != nil || spec.Process.ApparmorProfile != "own" {
		t.Error(err)
	}
}

func TestLabel(t *testing.T) {
	t.Parallel()
	base := compile.Label{Process: "u:r:t:s0:c1,c2", Mount: "u:o:f:s0:c1,c2"}
	for _, c := range []struct {
		o    *rt.SELinuxOption
		want compile.Label
	}{
		{nil, base},
		{&rt.SELinuxOption{}, base},
		{&rt.SELinuxOption{Level: "s0:c9"}, compile.Label{Process: "u:r:t:s0:c9", Mount: "u:o:f:s0:c9"}},
		{&rt.SELinuxOption{User: "a", Role: "b", Type: "c"}, compile.Label{Process: "a:b:c:s0:c1,c2", Mount: base.Mount}},
	} {
		if got := base.With(c.o); got != c.want {
			t.Errorf("%v: %v", c.o, got)
		}
	}
	if got := (compile.Label{}).With(&rt.SELinuxOption{Type: "t"}); got.Process != "::t" || got.Mount != "" {
		t.Errorf("%v", got)
	}
}

func TestEnvBytes(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Envs = []*rt.KeyValue{{Key: "B", Value: []byte("a\xffb\n")}}
	if _, err := compile.Container(in); !isInvalid(err) || !strings.HasPrefix(err.Error(), "envs[B]: ") {
		t.Errorf("%v", err)
	}
	in.Options.EscapeEnv = true
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(spec.Process.Env, func(s string) bool { return strings.HasPrefix(s, compile.EscapedEnv) })
	if i < 0 {
		t.Fatal("no escaped entry")
	}
	raw, err := base64.StdEncoding.DecodeString(strings.TrimPrefix(spec.Process.Env[i], compile.EscapedEnv))
	if err != nil || string(raw) != "B=a\xffb\n" {
		t.Errorf("%q %v", raw, err)
	}
}

func TestImageEnv(t *testing.T) {
	t.Parallel()
	in := input()
	in.Image.Env = []string{"NOVALUE", "=x", "E=", "HOME=/h", "E=2"}
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.Join(spec.Process.Env[1:], " "); got != "HOSTNAME=web-0 E=2 HOME=/h" {
		t.Errorf("%q", got)
	}
	in.Image.Env = []string{"X=a\x00b"}
	if _, err := compile.Container(in); !isInvalid(err) {
		t.Error(err)
	}
}

func TestResources(t *testing.T) {
	t.Parallel()
	type r = rt.LinuxContainerResources
	v1, v2, noSwap := compile.Host{Swap: true}, compile.Host{Swap: true, CgroupV2: true}, compile.Host{}
	i := func(n int64) *int64 { return &n }
	u := func(n uint64) *uint64 { return &n }
	for n, c := range []struct {
		r    *r
		h    compile.Host
		want specs.LinuxResources
	}{
		{nil, v1, specs.LinuxResources{}},
		{&r{}, v2, specs.LinuxResources{}},
		{&r{CpuShares: 2}, v1, specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: u(2)}}},
		{&r{CpuQuota: -1}, v1, specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(-1)}}},
		{&r{CpuQuota: 5000, CpuPeriod: 10000}, v1, specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: i(5000), Period: u(10000)}}},
		{&r{MemoryLimitInBytes: 8}, v1, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(8), Swap: i(8)}}},
		{&r{MemoryLimitInBytes: 8}, noSwap, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(8)}}},
		{&r{MemoryLimitInBytes: 8, MemorySwapLimitInBytes: 9}, v2, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(8), Swap: i(9)}}},
		{&r{MemoryLimitInBytes: 8, MemorySwapLimitInBytes: -1}, v2, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(8), Swap: i(-1)}}},
		{&r{MemoryLimitInBytes: -1}, v2, specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: i(-1), Swap: i(-1)}}},
		{&r{HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB"}, {PageSize: "64KB", Limit: 1}}}, v1, specs.LinuxResources{}},
		{&r{Unified: map[string]string{"memory.high": "max"}}, v1, specs.LinuxResources{}},
		{&r{Unified: map[string]string{"memory.high": "max"}}, v2, specs.LinuxResources{Unified: map[string]string{"memory.high": "max"}}},
	} {
		got, err := compile.Resources(c.r, c.h)
		if err != nil {
			t.Errorf("%d: %v", n, err)
			continue
		}
		if !equalJSON(got, c.want) {
			t.Errorf("%d: %s", n, toJSON(got))
		}
	}
	for _, c := range []struct {
		field string
		r     *r
	}{
		{"cpu_shares", &r{CpuShares: -1}},
		{"cpu_period", &r{CpuPeriod: 1}},
		{"cpu_period", &r{CpuPeriod: -1}},
		{"cpu_period", &r{CpuPeriod: 1000001}},
		{"cpu_quota", &r{CpuQuota: 999}},
		{"memory_limit_in_bytes", &r{MemoryLimitInBytes: -2}},
		{"memory_swap_limit_in_bytes", &r{MemorySwapLimitInBytes: -2}},
		{"memory_swap_limit_in_bytes", &r{MemorySwapLimitInBytes: 1}},
		{"memory_swap_limit_in_bytes", &r{MemorySwapLimitInBytes: 1, MemoryLimitInBytes: 2}},
		{"oom_score_adj", &r{OomScoreAdj: -1001}},
		{"cpuset_cpus", &r{CpusetCpus: "0\n1"}},
		{"cpuset_mems", &r{CpusetMems: "a"}},
		{"hugepage_limits.page_size", &r{HugepageLimits: []*rt.HugepageLimit{{PageSize: "../x"}}}},
		{"hugepage_limits.page_size", &r{HugepageLimits: []*rt.HugepageLimit{{PageSize: "MB"}}}},
		{"hugepage_limits.page_size", &r{HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MBB"}}}},
		{"unified[../../x.y]", &r{Unified: map[string]string{"../../x.y": "1"}}},
		{"unified[a/b.c]", &r{Unified: map[string]string{"a/b.c": "1"}}},
		{"unified[cgroup.procs]", &r{Unified: map[string]string{"cgroup.procs": "1"}}},
		{"unified[memory]", &r{Unified: map[string]string{"memory": "1"}}},
		{"unified[io.max]", &r{Unified: map[string]string{"io.max": "1\n2"}}},
	} {
		_, err := compile.Resources(c.r, v2)
		expect(t, err, "linux.resources."+c.field+": ")
	}
}

func TestOOMScoreAdj(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		want, own int
		can       bool
		ask       int64
	}{{-997, 0, true, -997}, {0, 0, false, -997}, {500, 0, false, 500}, {100, 100, false, 3}, {0, -999, true, 0}} {
		h := compile.Host{OOMScoreAdj: c.own, CanLowerOOM: c.can}
		if got := compile.OOMScoreAdj(&rt.LinuxContainerResources{OomScoreAdj: c.ask}, h); got != c.want {
			t.Errorf("%+v: %d", c, got)
		}
	}
}

func TestMergeResources(t *testing.T) {
	t.Parallel()
	type r = rt.LinuxContainerResources
	old := &r{CpuShares: 10, CpuQuota: 5000, MemoryLimitInBytes: 64, MemorySwapLimitInBytes: 64, OomScoreAdj: 3, CpusetMems: "0",
		HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB", Limit: 1}}, Unified: map[string]string{"a.b": "1"}}
	before := toJSON(old)
	up := &r{CpuQuota: -1, CpuPeriod: 20000, MemoryLimitInBytes: 128, OomScoreAdj: 900, CpusetCpus: "1",
		HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB", Limit: 7}, {PageSize: "1GB", Limit: 9}}, Unified: map[string]string{"a.b": "2", "c.d": "3"}}
	want := &r{CpuShares: 10, CpuQuota: -1, CpuPeriod: 20000, MemoryLimitInBytes: 128, MemorySwapLimitInBytes: 128, OomScoreAdj: 3, CpusetCpus: "1", CpusetMems: "0",
		HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB", Limit: 7}, {PageSize: "1GB", Limit: 9}}, Unified: map[string]string{"a.b": "2", "c.d": "3"}}
	got := compile.MergeResources(old, up)
	if !equalJSON(got, want) {
		t.Errorf("%s", toJSON(got))
	}
	if toJSON(old) != before {
		t.Error("old changed")
	}
	if again := compile.MergeResources(got, up); !equalJSON(again, want) {
		t.Errorf("not idempotent: %s", toJSON(again))
	}
	if got := compile.MergeResources(nil, &r{CpusetCpus: "3", Unified: map[string]string{"a.b": "1"}}); got.CpusetCpus != "3" || got.Unified["a.b"] != "1" {
		t.Errorf("%v", got)
	}
	if got := compile.MergeResources(old, nil); toJSON(got) != before {
		t.Errorf("%v", got)
	}
}

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

func TestMissingDevice(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Devices = []*rt.Device{{HostPath: "/dev/none"}}
	if _, err := compile.Container(in); !isInvalid(err) {
		t.Error(err)
	}
}

func TestPrivilegedWithoutDevices(t *testing.T) {
	t.Parallel()
	in := input()
	goldens()["privileged"](&in)
	in.Options.NoHostDevices = true
	spec, err := compile.Container(in)
	if err != nil || len(spec.Linux.Devices) != 1 {
		t.Errorf("%v", err)
	}
}

func TestVolumes(t *testing.T) {
	t.Parallel()
	cc := &rt.ContainerConfig{Mounts: []*rt.Mount{{ContainerPath: "/data"}}}
	got := compile.Volumes(cc, compile.ImageConfig{Volumes: []string{"/v", "v/", "w", "/data", "/data/x", "/database", "/proc/x", "/", "", "/dev", "../etc", "/a\x00"}})
	if want := []string{"/database", "/etc", "/v", "/w"}; !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
