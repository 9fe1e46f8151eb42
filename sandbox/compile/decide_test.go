package compile_test

import (
	"encoding/base64"
	"go/ast"
	"go/parser"
	"go/token"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

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
	if err != nil || len(spec.Linux.Devices) != 1 || spec.Linux.Resources.Devices[0].Allow {
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

// Two requests for one place: the later one is made, both may be used.
func TestDeviceTwice(t *testing.T) {
	t.Parallel()
	in := input()
	in.Container.Devices = []*rt.Device{{HostPath: "/dev/a", ContainerPath: "/dev/x"}, {HostPath: "/dev/b", ContainerPath: "/dev/x"}}
	in.Devices = [][]compile.Device{{{Path: "/dev/x", Type: "c", Major: 1}}, {{Path: "/dev/x", Type: "c", Major: 2}}}
	spec, err := compile.Container(in)
	if err != nil || len(spec.Linux.Devices) != 1 || spec.Linux.Devices[0].Major != 2 {
		t.Errorf("%v", err)
	}
}

// Layers of an image volume go one by one to the native runtime, without escapes.
func TestImageVolumeNative(t *testing.T) {
	t.Parallel()
	in := input()
	in.Paths.Lower, in.Paths.Upper, in.Paths.Work = []string{"/l"}, "/u", "/w"
	in.Container.Mounts = []*rt.Mount{{ContainerPath: "/i", Image: &rt.ImageSpec{Image: "x"}}}
	in.Images = map[int]compile.ImageVolume{0: {Layers: []string{"/a:b", "/c"}}}
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	i := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == "/i" })
	if got := strings.Join(spec.Mounts[i].Options, " "); got != "lowerdir+=/a:b lowerdir+=/c ro nosuid nodev" {
		t.Error(got)
	}
}

// A pod without a /dev/shm of its own, and a writable cgroup by option.
func TestOwnShm(t *testing.T) {
	t.Parallel()
	in := input()
	in.Paths.Shm, in.Options.CgroupWritable = "", true
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range spec.Mounts {
		switch m.Destination {
		case "/dev/shm":
			if m.Type != "tmpfs" || !slices.Contains(m.Options, "mode=1777") {
				t.Errorf("%+v", m)
			}
		case "/sys/fs/cgroup":
			if !slices.Contains(m.Options, "rw") {
				t.Errorf("%+v", m)
			}
		}
	}
}

// The package decides; it must not be able to do. (syscall is there for Signal.)
func TestPure(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	pure := strings.Fields("bytes cmp encoding/base64 errors fmt io/fs maps net/netip path slices strconv strings syscall unicode/utf8")
	for _, name := range files {
		if strings.HasSuffix(name, "_test.go") {
			continue
		}
		f, err := parser.ParseFile(token.NewFileSet(), name, nil, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, i := range f.Imports {
			p, _ := strconv.Unquote(i.Path.Value)
			if std := !strings.Contains(p, "."); std && !slices.Contains(pure, p) {
				t.Errorf("%s imports %s", name, p)
			}
		}
		ast.Inspect(f, func(n ast.Node) bool {
			if s, ok := n.(*ast.SelectorExpr); ok {
				if x, ok := s.X.(*ast.Ident); ok && x.Name == "syscall" && !strings.HasPrefix(s.Sel.Name, "S") {
					t.Errorf("%s uses syscall.%s", name, s.Sel.Name)
				}
			}
			return true
		})
	}
}

func BenchmarkContainer(b *testing.B) {
	in := input()
	sec(&in).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
	for b.Loop() {
		if _, err := compile.Container(in); err != nil {
			b.Fatal(err)
		}
	}
}
