package compile

//lint:file-ignore SA1019 clients still send the deprecated strings of profiles

import (
	"fmt"
	"strings"

	"github.com/moby/profiles/seccomp"
	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// AppArmorDefault is the name of the profile a container gets by default on a
// host with AppArmor; whoever starts it sees to it that the profile is loaded.
const AppArmorDefault = "berth-default"

// Unconfined as Options.AppArmorProfile is for a host whose kernel has AppArmor
// but where the default profile can't be loaded.
const Unconfined = "unconfined"

// Label is an SELinux label pair: "user:role:type:level" for processes and for files.
type Label struct{ Process, Mount string }

// confine adds seccomp, AppArmor and SELinux. A privileged container has none of them.
func (in *Input) confine(spec *specs.Spec) error {
	if in.privileged() {
		return nil
	}
	const parent = "linux.security_context"
	var err error
	if spec.Linux.Seccomp, err = in.seccomp(spec); err != nil {
		return within(parent, err)
	}
	if spec.Process.ApparmorProfile, err = in.appArmor(); err != nil {
		return within(parent, err)
	}
	if in.Host.SELinux && !in.sharesHost() {
		label := in.SELinux.With(in.security().GetSelinuxOptions())
		spec.Process.SelinuxLabel, spec.Linux.MountLabel = label.Process, label.Mount
	}
	return nil
}

// sharesHost: processes of the host's PID or IPC namespace can't be kept apart by label.
func (in *Input) sharesHost() bool {
	mode, _ := PIDMode(in.Pod, in.Container)
	return mode == rt.NamespaceMode_NODE || !Namespaces(in.Pod).IPC
}

// profile is the meaning of a SecurityProfile message or of its deprecated string.
type profile struct {
	kind rt.SecurityProfile_ProfileType
	ref  string // Localhost only
	set  bool   // false: neither form was given
}

func readProfile(field string, p *rt.SecurityProfile, old string) (profile, error) {
	if p == nil {
		return readOldProfile(field, old)
	}
	k := p.GetProfileType()
	if k < rt.SecurityProfile_RuntimeDefault || k > rt.SecurityProfile_Localhost {
		return profile{}, invalid(field, "unknown profile type %d", k)
	}
	if k != rt.SecurityProfile_Localhost {
		return profile{kind: k, set: true}, nil
	}
	return localhost(field+".localhost_ref", p.GetLocalhostRef())
}

// readOldProfile reads "", "runtime/default", "docker/default", "unconfined", "localhost/<ref>".
func readOldProfile(field, s string) (profile, error) {
	switch s {
	case "":
		return profile{kind: rt.SecurityProfile_Unconfined}, nil
	case "runtime/default", "docker/default":
		return profile{kind: rt.SecurityProfile_RuntimeDefault, set: true}, nil
	case "unconfined":
		return profile{kind: rt.SecurityProfile_Unconfined, set: true}, nil
	}
	if !strings.HasPrefix(s, "localhost/") {
		return profile{}, invalid(field, "unknown profile %q", s)
	}
	return localhost(field, s)
}

func localhost(field, ref string) (profile, error) {
	ref = strings.TrimPrefix(ref, "localhost/")
	if ref == "" {
		return profile{}, invalid(field, "names no profile")
	}
	return profile{rt.SecurityProfile_Localhost, ref, true}, checkText(field, ref)
}

func seccompProfile(sc *rt.LinuxContainerSecurityContext) (profile, error) {
	p, err := readProfile("seccomp", sc.GetSeccomp(), sc.GetSeccompProfilePath())
	if err == nil && p.kind == rt.SecurityProfile_Localhost {
		err = checkPath("seccomp.localhost_ref", p.ref)
	}
	return p, err
}

func appArmorProfile(sc *rt.LinuxContainerSecurityContext) (profile, error) {
	p, err := readProfile("apparmor", sc.GetApparmor(), sc.GetApparmorProfile())
	if err == nil && !p.set {
		p.kind = rt.SecurityProfile_RuntimeDefault
	}
	return p, err
}

// SeccompFile is the absolute path of the seccomp profile a container asks for,
// whose content Input.Seccomp then is; "" when it asks for none of its own.
func SeccompFile(cc *rt.ContainerConfig) (string, error) {
	sc := cc.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() {
		return "", nil
	}
	p, err := seccompProfile(sc)
	return p.ref, within("linux.security_context", err)
}

func (in *Input) seccomp(spec *specs.Spec) (*specs.LinuxSeccomp, error) {
	p, err := seccompProfile(in.security())
	if err != nil {
		return nil, err
	}
	switch {
	case p.kind == rt.SecurityProfile_Unconfined:
		return nil, nil
	case p.kind == rt.SecurityProfile_RuntimeDefault && in.Host.NoSeccomp:
		return nil, nil
	case p.kind == rt.SecurityProfile_RuntimeDefault:
		return seccomp.GetDefaultProfile(spec)
	case in.Host.NoSeccomp:
		return nil, invalid("seccomp.localhost_ref", "the kernel has no seccomp filters")
	}
	filter, err := seccomp.LoadProfile(string(in.Seccomp), spec)
	if err == nil {
		err = checkFilter(filter)
	}
	if err != nil {
		return nil, invalid("seccomp.localhost_ref", "%s: %v", p.ref, err)
	}
	return filter, nil
}

// checkFilter refuses a profile that would silently confine nothing or that the
// runtime program would refuse only when the container starts.
func checkFilter(f *specs.LinuxSeccomp) error {
	if f == nil || f.DefaultAction == "" {
		return fmt.Errorf("no defaultAction")
	}
	if err := checkAction(f.DefaultAction); err != nil {
		return err
	}
	for _, s := range f.Syscalls {
		if err := checkAction(s.Action); err != nil {
			return err
		}
		if len(s.Names) == 0 {
			return fmt.Errorf("a rule without a name")
		}
	}
	return nil
}

func checkAction(a specs.LinuxSeccompAction) error {
	switch a {
	case specs.ActKill, specs.ActKillProcess, specs.ActKillThread, specs.ActTrap, specs.ActErrno,
		specs.ActTrace, specs.ActAllow, specs.ActLog, specs.ActNotify:
		return nil
	}
	return fmt.Errorf("unknown action %q", a)
}

func (in *Input) appArmor() (string, error) {
	p, err := appArmorProfile(in.security())
	switch {
	case err != nil:
		return "", err
	case p.kind == rt.SecurityProfile_Localhost:
		if !in.Host.AppArmor {
			return "", invalid("apparmor.localhost_ref", "%s: the host has no AppArmor", p.ref)
		}
		return p.ref, nil
	case p.kind == rt.SecurityProfile_Unconfined || !in.Host.AppArmor:
		return "", nil
	case in.Options.AppArmorProfile == Unconfined:
		return "", nil
	case in.Options.AppArmorProfile != "":
		return in.Options.AppArmorProfile, nil
	}
	return AppArmorDefault, nil
}

// With is the label with the parts that o gives put in; the level goes to files
// too, since it is what keeps pods apart.
func (l Label) With(o *rt.SELinuxOption) Label {
	if o == nil {
		return l
	}
	return Label{
		Process: relabel(l.Process, o.GetUser(), o.GetRole(), o.GetType(), o.GetLevel()),
		Mount:   relabel(l.Mount, "", "", "", o.GetLevel()),
	}
}

func relabel(label string, parts ...string) string {
	base := strings.SplitN(label, ":", 4)
	for len(base) < 4 {
		base = append(base, "")
	}
	for i, p := range parts {
		if p != "" {
			base[i] = p
		}
	}
	return strings.TrimRight(strings.Join(base, ":"), ":")
}

func checkSELinux(o *rt.SELinuxOption) error {
	for _, p := range []struct{ field, value, not string }{
		{"selinux_options.user", o.GetUser(), ": \t,"},
		{"selinux_options.role", o.GetRole(), ": \t,"},
		{"selinux_options.type", o.GetType(), ": \t,"},
		{"selinux_options.level", o.GetLevel(), " \t"},
	} {
		if strings.ContainsAny(p.value, p.not) {
			return invalid(p.field, "%q is not a part of a label", p.value)
		}
		if err := checkText(p.field, p.value); err != nil {
			return err
		}
	}
	return nil
}
