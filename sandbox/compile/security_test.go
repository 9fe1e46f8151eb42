package compile_test

//lint:file-ignore SA1019 clients still send the deprecated strings of profiles

import (
	"slices"
	"strings"
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
	// The default profile can't be loaded: only what a container names itself counts.
	in.Options.AppArmorProfile = compile.Unconfined
	if spec, err := compile.Container(in); err != nil || spec.Process.ApparmorProfile != "" {
		t.Errorf("without a default: %v, %v", spec.Process.ApparmorProfile, err)
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
