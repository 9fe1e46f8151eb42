package compile

import (
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// KnownCaps lists the capabilities of capabilities(7) by number, as of Linux 5.9,
// the last that brought one.
func KnownCaps() []string {
	names := strings.Fields(`
		CHOWN DAC_OVERRIDE DAC_READ_SEARCH FOWNER FSETID KILL SETGID SETUID SETPCAP LINUX_IMMUTABLE
		NET_BIND_SERVICE NET_BROADCAST NET_ADMIN NET_RAW IPC_LOCK IPC_OWNER SYS_MODULE SYS_RAWIO SYS_CHROOT SYS_PTRACE
		SYS_PACCT SYS_ADMIN SYS_BOOT SYS_NICE SYS_RESOURCE SYS_TIME SYS_TTY_CONFIG MKNOD LEASE AUDIT_WRITE
		AUDIT_CONTROL SETFCAP MAC_OVERRIDE MAC_ADMIN SYSLOG WAKE_ALARM BLOCK_SUSPEND AUDIT_READ PERFMON BPF
		CHECKPOINT_RESTORE`)
	for i, n := range names {
		names[i] = "CAP_" + n
	}
	return names
}

// DefaultCaps lists what a container has without asking.
func DefaultCaps() []string {
	return []string{
		"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FSETID", "CAP_FOWNER", "CAP_MKNOD", "CAP_NET_RAW", "CAP_SETGID",
		"CAP_SETUID", "CAP_SETFCAP", "CAP_SETPCAP", "CAP_NET_BIND_SERVICE", "CAP_SYS_CHROOT", "CAP_KILL", "CAP_AUDIT_WRITE",
	}
}

const allCaps = "CAP_ALL"

// capName gives the kernel's spelling of a name in any case, with or without prefix.
func capName(s string) string {
	return "CAP_" + strings.TrimPrefix(strings.ToUpper(s), "CAP_")
}

func checkCaps(c *rt.Capability) error {
	known := KnownCaps()
	for _, l := range []struct {
		field string
		names []string
	}{
		{"capabilities.add_capabilities", c.GetAddCapabilities()},
		{"capabilities.drop_capabilities", c.GetDropCapabilities()},
		{"capabilities.add_ambient_capabilities", c.GetAddAmbientCapabilities()},
	} {
		for _, n := range l.names {
			if c := capName(n); c != allCaps && !slices.Contains(known, c) {
				return invalid(l.field, "unknown capability %q", n)
			}
		}
	}
	return nil
}

// capSet is a set of capability names.
type capSet map[string]bool

func (s capSet) add(names []string)  { s.put(names, true) }
func (s capSet) drop(names []string) { s.put(names, false) }

func (s capSet) put(names []string, v bool) {
	for _, n := range names {
		s[capName(n)] = v
	}
}

// in lists the members of s in the order of all; what is not in all can't be given.
func (s capSet) in(all []string) []string {
	list := []string{}
	for _, c := range all {
		if s[c] {
			list = append(list, c)
		}
	}
	return list
}

func hasAll(names []string) bool {
	return slices.ContainsFunc(names, func(n string) bool { return capName(n) == allCaps })
}

// capabilities computes the five sets. Order: the defaults unless one of the
// lists says ALL, add ALL, drop ALL, single adds, single drops. Inheritable stays
// empty, because it lets file capabilities revive what was dropped
// (CVE-2022-24769), save for the ambient ones, which the kernel wants in it.
func (in *Input) capabilities() *specs.LinuxCapabilities {
	all := in.Host.Caps
	if all == nil {
		all = KnownCaps()
	}
	set := capSet{}
	var ambient []string
	if in.privileged() {
		set.add(all)
	} else {
		c := in.security().GetCapabilities()
		add, drop := c.GetAddCapabilities(), c.GetDropCapabilities()
		if !hasAll(add) && !hasAll(drop) {
			set.add(in.Options.defaultCaps())
		}
		if hasAll(add) && !hasAll(drop) {
			set.add(all)
		}
		raise := c.GetAddAmbientCapabilities()
		if hasAll(raise) {
			raise = all
		}
		set.add(add)
		set.add(raise)
		set.drop(drop)
		amb := capSet{}
		amb.add(raise)
		amb.drop(drop)
		ambient = amb.in(all)
	}
	list := set.in(all)
	caps := &specs.LinuxCapabilities{Bounding: list, Effective: slices.Clone(list), Permitted: slices.Clone(list)}
	if len(ambient) > 0 {
		caps.Inheritable, caps.Ambient = ambient, slices.Clone(ambient)
	}
	return caps
}

func (o Options) defaultCaps() []string {
	if o.DefaultCaps != nil {
		return o.DefaultCaps
	}
	return DefaultCaps()
}
