package launch_test

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch"
	"github.com/berth-runtime/berth/oci/launch/plan"
	"github.com/berth-runtime/berth/oci/launch/seccomp"
	"github.com/berth-runtime/berth/test/bundle"
)

// specDir is where the runtime specification of go.mod is.
func specDir(t *testing.T) string {
	t.Helper()
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Dir}}", "github.com/opencontainers/runtime-spec").Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(out))
}

// constants are the values of all string constants of a type of specs-go, as its source has them.
func constants(t *testing.T, kind string) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), specDir(t)+"/specs-go/config.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if !ok || v.Type == nil || len(v.Values) != 1 {
			return true
		}
		if id, ok := v.Type.(*ast.Ident); ok && id.Name == kind {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				s, _ := strconv.Unquote(lit.Value)
				out = append(out, s)
			}
		}
		return true
	})
	if len(out) == 0 {
		t.Fatalf("no constants of type %s", kind)
	}
	slices.Sort(out)
	return out
}

// same compares what features lists with what the specification defines, less what it must not list.
func same(t *testing.T, what string, got, want []string, but ...string) {
	t.Helper()
	got = slices.Clone(got)
	slices.Sort(got)
	want = slices.DeleteFunc(slices.Clone(want), func(s string) bool { return slices.Contains(but, s) })
	slices.Sort(want)
	if !slices.Equal(got, slices.Compact(want)) {
		t.Errorf("%s: features lists %v, the specification %v", what, got, want)
	}
}

// decide says what becomes of a config with one thing changed.
func decide(t *testing.T, change func(*specs.Spec)) (*plan.Config, error) {
	t.Helper()
	s := bundle.Spec("/x")
	change(s)
	c, err := plan.Parse(marshal(t, s))
	if err != nil {
		return nil, err
	}
	spaces, err := c.Spaces()
	if err != nil {
		return nil, err
	}
	_, err = c.Container(plan.Host{ID: "c", Bundle: "/b"}, spaces)
	return c, err
}

// What features lists is what the specification defines, all of it is accepted, and anything else is not.
func TestFeaturesTellTheTruth(t *testing.T) {
	t.Parallel()
	f := launch.Features()
	l := f.Linux
	same(t, "namespaces", l.Namespaces, constants(t, "LinuxNamespaceType"))
	for _, name := range append(slices.Clone(l.Namespaces), "what") {
		_, err := decide(t, func(s *specs.Spec) {
			s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "uts"}}
			if name != "uts" {
				s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.LinuxNamespaceType(name)})
			}
			if name == "user" {
				s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
				s.Linux.GIDMappings = s.Linux.UIDMappings
			}
		})
		if (err == nil) != (name != "what") {
			t.Errorf("namespace %s: %v", name, err)
		}
	}
	same(t, "seccomp actions", l.Seccomp.Actions, constants(t, "LinuxSeccompAction"))
	same(t, "seccomp operators", l.Seccomp.Operators, constants(t, "LinuxSeccompOperator"))
	same(t, "seccomp architectures", l.Seccomp.Archs, constants(t, "Arch"))
	same(t, "seccomp flags", l.Seccomp.KnownFlags, append(constants(t, "LinuxSeccompFlag"), "SECCOMP_FILTER_FLAG_TSYNC"))
	same(t, "memory policy modes", l.MemoryPolicy.Modes, constants(t, "MemoryPolicyModeType"))
	same(t, "memory policy flags", l.MemoryPolicy.Flags, constants(t, "MemoryPolicyFlagType"))
	var hooks []string
	for i := range reflect.TypeFor[specs.Hooks]().NumField() {
		hooks = append(hooks, jsonName(reflect.TypeFor[specs.Hooks]().Field(i)))
	}
	same(t, "hooks", f.Hooks, hooks)
	if f.OCIVersionMax != specs.Version {
		t.Errorf("version %s", f.OCIVersionMax)
	}
	for name, on := range map[string]*bool{"intelRdt": l.IntelRdt.Enabled, "intelRdt.schemata": l.IntelRdt.Schemata, "intelRdt.monitoring": l.IntelRdt.Monitoring,
		"netDevices": l.NetDevices.Enabled, "idmap": l.MountExtensions.IDMap.Enabled, "apparmor": l.Apparmor.Enabled, "selinux": l.Selinux.Enabled,
		"v1": l.Cgroup.V1, "v2": l.Cgroup.V2, "systemd": l.Cgroup.Systemd, "rdma": l.Cgroup.Rdma, "seccomp": l.Seccomp.Enabled} {
		if on == nil || !*on {
			t.Errorf("%s is not enabled", name)
		}
	}
}

// Each name listed for seccomp compiles, alone and on its own terms, and one letter more does not.
func TestFeaturesSeccomp(t *testing.T) {
	t.Parallel()
	s := launch.Features().Linux.Seccomp
	try := func(list []string, set func(*specs.LinuxSeccomp, string)) {
		t.Helper()
		for _, name := range list {
			for _, text := range []string{name, name + "?"} {
				p := &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/x",
					Syscalls: []specs.LinuxSyscall{{Names: []string{"getpid"}, Action: specs.ActErrno}}}
				set(p, text)
				if _, err := seccomp.Compile(p); (err == nil) != (text == name) {
					t.Errorf("%s: %v", text, err)
				}
			}
		}
	}
	try(s.Actions, func(p *specs.LinuxSeccomp, v string) { p.Syscalls[0].Action = specs.LinuxSeccompAction(v) })
	try(s.Archs, func(p *specs.LinuxSeccomp, v string) { p.Architectures = []specs.Arch{specs.Arch(v)} })
	try(s.KnownFlags, func(p *specs.LinuxSeccomp, v string) { p.Flags = []specs.LinuxSeccompFlag{specs.LinuxSeccompFlag(v)} })
	try(s.Operators, func(p *specs.LinuxSeccomp, v string) {
		p.Syscalls[0].Args = []specs.LinuxSeccompArg{{Op: specs.LinuxSeccompOperator(v)}}
	})
	for _, flag := range s.SupportedFlags {
		if !slices.Contains(s.KnownFlags, flag) {
			t.Errorf("%s is supported and not known", flag)
		}
	}
	if len(s.SupportedFlags) < 3 { // log, spec_allow and tsync are older than what this runs on
		t.Errorf("supported flags: %v", s.SupportedFlags)
	}
}

// Every option of the specification's table is listed, and every listed one has a meaning of its own here: none is
// handed to the file system.
func TestFeaturesMountOptions(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(specDir(t) + "/config.md")
	if err != nil {
		t.Fatal(err)
	}
	listed := launch.Features().MountOptions
	rows := regexp.MustCompile("(?m)^ `([a-z]+) *` +\\| *(MUST|SHOULD|MAY)").FindAllStringSubmatch(string(text), -1)
	if len(rows) < 60 {
		t.Fatalf("%d options in config.md", len(rows))
	}
	for _, row := range rows {
		if !slices.Contains(listed, row[1]) {
			t.Errorf("%s (%s) is not listed", row[1], row[2])
		}
	}
	for _, name := range listed {
		m := specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", name}}
		_, err := decide(t, func(s *specs.Spec) {
			s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}}
			s.Linux.GIDMappings = s.Linux.UIDMappings
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
			s.Mounts = append(s.Mounts, m)
		})
		super := slices.Contains([]string{"sync", "dirsync", "lazytime", "mand"}, name)
		if err != nil && !(super || name == "remount") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := decide(t, func(s *specs.Spec) {
		s.Mounts = append(s.Mounts, specs.Mount{Destination: "/x", Source: "/y", Options: []string{"bind", "what"}})
	}); err == nil {
		t.Error("an option that is not listed is accepted on a bind")
	}
}

// The capabilities are the kernel's, all of them; one that is not known is a warning.
func TestFeaturesCapabilities(t *testing.T) {
	t.Parallel()
	list := launch.Features().Linux.Capabilities
	text, err := os.ReadFile("/proc/sys/kernel/cap_last_cap")
	if last, _ := strconv.Atoi(strings.TrimSpace(string(text))); err == nil && last >= len(list) {
		t.Errorf("the kernel has %d, features lists %d", last+1, len(list))
	}
	if len(list) != unix.CAP_LAST_CAP+1 {
		t.Errorf("%d, want %d", len(list), unix.CAP_LAST_CAP+1)
	}
	c, err := decide(t, func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: list} })
	if err != nil || len(c.Warnings) != 0 {
		t.Errorf("%v %v", c, err)
	}
	c, err = decide(t, func(s *specs.Spec) { s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_WHAT"}} })
	if err != nil || len(c.Warnings) != 1 || !strings.Contains(c.Warnings[0], "CAP_WHAT") {
		t.Errorf("%v %v", c, err)
	}
}

// What each policy and flag of the scheduler and of memory comes to, without the kernel.
func TestFeaturesPolicies(t *testing.T) {
	t.Parallel()
	for _, policy := range constants(t, "LinuxSchedulerPolicy") {
		_, err := decide(t, func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: specs.LinuxSchedulerPolicy(policy)}
		})
		if policy == "SCHED_ISO" { // reserved, in no kernel (sched(7))
			if err == nil || !strings.Contains(err.Error(), "SCHED_ISO") {
				t.Errorf("%s: %v", policy, err)
			}
		} else if err != nil {
			t.Errorf("%s: %v", policy, err)
		}
	}
	for _, flag := range constants(t, "LinuxSchedulerFlag") {
		if _, err := decide(t, func(s *specs.Spec) {
			s.Process.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER", Flags: []specs.LinuxSchedulerFlag{specs.LinuxSchedulerFlag(flag)}}
		}); err != nil {
			t.Errorf("%s: %v", flag, err)
		}
	}
	for _, mode := range launch.Features().Linux.MemoryPolicy.Modes {
		for _, flag := range launch.Features().Linux.MemoryPolicy.Flags {
			if _, err := decide(t, func(s *specs.Spec) {
				s.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MemoryPolicyModeType(mode), Nodes: "0", Flags: []specs.MemoryPolicyFlagType{specs.MemoryPolicyFlagType(flag)}}
			}); err != nil {
				t.Errorf("%s %s: %v", mode, flag, err)
			}
		}
	}
}

// A label that no security module would enforce is refused by name.
func TestLabelsRefused(t *testing.T) {
	t.Parallel()
	_, selinux := os.Stat("/sys/fs/selinux/enforce")
	apparmor, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	for want, c := range map[string]struct {
		enabled bool
		change  func(*specs.Spec)
	}{
		"process.apparmorProfile": {strings.HasPrefix(string(apparmor), "Y"), func(s *specs.Spec) { s.Process.ApparmorProfile = "p" }},
		"process.selinuxLabel":    {selinux == nil, func(s *specs.Spec) { s.Process.SelinuxLabel = "l" }},
		"linux.mountLabel":        {selinux == nil, func(s *specs.Spec) { s.Linux.MountLabel = "l" }},
	} {
		if c.enabled {
			continue
		}
		b := newBox(t, "sleep")
		c.change(b.spec)
		b.config()
		if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, want) || !strings.Contains(r.err, "not enabled") {
			t.Errorf("%s: %d %q", want, r.code, r.err)
		}
	}
}

func jsonOf(text string, v any) error { return json.Unmarshal([]byte(text), v) }
