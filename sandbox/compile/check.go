package compile

//lint:file-ignore SA1019 clients still send the deprecated strings of profiles

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// CheckPod refuses a pod's config that can't be carried out on any host.
func CheckPod(pod *rt.PodSandboxConfig) error {
	if pod == nil {
		return invalid("config", "is missing")
	}
	m := pod.GetMetadata()
	if m == nil {
		return invalid("metadata", "is missing")
	}
	// kubelet's client refuses a status without any of the three: such a pod could never be looked at.
	for _, f := range [...][2]string{{"metadata.name", m.GetName()}, {"metadata.namespace", m.GetNamespace()}, {"metadata.uid", m.GetUid()}} {
		if f[1] == "" {
			return invalid(f[0], "is empty")
		}
	}
	err := first(
		checkName("metadata.name", m.GetName()),
		checkName("metadata.namespace", m.GetNamespace()),
		checkName("metadata.uid", m.GetUid()),
		checkHostname(pod.GetHostname()),
		checkDNS(pod.GetDnsConfig()),
		checkPorts(pod.GetPortMappings()),
		within("linux", checkLinuxPod(pod.GetLinux())),
	)
	if err != nil {
		return err
	}
	if dir := pod.GetLogDirectory(); dir != "" {
		if err := first(checkPath("log_directory", dir), checkText("log_directory", dir)); err != nil {
			return err
		}
	}
	_, err = Sysctls(pod, nil)
	return err
}

// checkHostname: what sethostname(2) takes and a line of /etc/hosts can hold.
func checkHostname(name string) error {
	switch {
	case len(name) > 64:
		return invalid("hostname", "%d bytes, more than 64", len(name))
	case strings.ContainsAny(name, "/ \t"):
		return invalid("hostname", "%q is not a host name", name)
	}
	return checkText("hostname", name)
}

func checkDNS(dns *rt.DNSConfig) error {
	for _, l := range []struct {
		field string
		words []string
	}{
		{"dns_config.servers", dns.GetServers()},
		{"dns_config.searches", dns.GetSearches()},
		{"dns_config.options", dns.GetOptions()},
	} {
		for _, w := range l.words {
			if !isWord(w) {
				return invalid(l.field, "%q is not one word", w)
			}
		}
	}
	return nil
}

func checkPorts(ports []*rt.PortMapping) error {
	for i, p := range ports {
		field := fmt.Sprintf("port_mappings[%d].", i)
		switch {
		case p.GetProtocol() < rt.Protocol_TCP || p.GetProtocol() > rt.Protocol_SCTP:
			return invalid(field+"protocol", "unknown protocol %d", p.GetProtocol())
		case p.GetHostPort() < 0 || p.GetHostPort() > 65535:
			return invalid(field+"host_port", "%d is not a port", p.GetHostPort())
		case p.GetContainerPort() < 0 || p.GetContainerPort() > 65535:
			return invalid(field+"container_port", "%d is not a port", p.GetContainerPort())
		case p.GetHostPort() > 0 && p.GetContainerPort() == 0:
			return invalid(field+"container_port", "0 is not a port, and host port %d has to lead to one", p.GetHostPort())
		}
		if p.GetHostIp() == "" {
			continue
		}
		if ip, err := netip.ParseAddr(p.GetHostIp()); err != nil || ip.Zone() != "" {
			return invalid(field+"host_ip", "%q is not an address", p.GetHostIp())
		}
	}
	return nil
}

func checkLinuxPod(l *rt.LinuxPodSandboxConfig) error {
	if p := l.GetCgroupParent(); p != "" {
		if err := first(checkSteps("cgroup_parent", p), checkText("cgroup_parent", p)); err != nil {
			return err
		}
	}
	sc := l.GetSecurityContext()
	return first(
		within("overhead", checkResources(l.GetOverhead())),
		within("resources", checkResources(l.GetResources())),
		within("security_context", checkPodSecurity(sc)),
	)
}

func checkPodSecurity(sc *rt.LinuxSandboxSecurityContext) error {
	if sc.GetRunAsGroup() != nil && sc.GetRunAsUser() == nil {
		return invalid("run_as_group", "needs run_as_user")
	}
	o := sc.GetNamespaceOptions()
	if o.GetPid() == rt.NamespaceMode_TARGET {
		return invalid("namespace_options.pid", "TARGET is for containers only")
	}
	_, seccompErr := readProfile("seccomp", sc.GetSeccomp(), sc.GetSeccompProfilePath())
	_, appArmorErr := readProfile("apparmor", sc.GetApparmor(), "")
	return first(
		checkID("run_as_user", sc.GetRunAsUser()),
		checkID("run_as_group", sc.GetRunAsGroup()),
		checkGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()),
		checkSELinux(sc.GetSelinuxOptions()),
		within("namespace_options", checkNamespaces(o)),
		seccompErr, appArmorErr,
	)
}

// CheckContainer refuses a container's config that can't be carried out in this
// pod on any host.
func CheckContainer(pod *rt.PodSandboxConfig, cc *rt.ContainerConfig) error {
	if cc == nil {
		return invalid("config", "is missing")
	}
	switch {
	case cc.GetMetadata() == nil:
		return invalid("metadata", "is missing")
	case cc.GetMetadata().GetName() == "":
		return invalid("metadata.name", "is empty")
	case cc.GetImage().GetImage() == "":
		return invalid("image.image", "is empty")
	}
	if _, err := LogPath(pod, cc); err != nil {
		return err
	}
	return first(
		checkName("metadata.name", cc.GetMetadata().GetName()),
		checkCommand(cc),
		checkEnvs(cc.GetEnvs()),
		checkWorkingDir(cc.GetWorkingDir()),
		checkMounts(cc.GetMounts()),
		checkDevices(cc),
		checkStopSignal(cc.GetStopSignal()),
		within("linux.resources", checkResources(cc.GetLinux().GetResources())),
		within("linux.security_context", checkSecurity(pod, cc.GetLinux().GetSecurityContext())),
	)
}

func checkCommand(cc *rt.ContainerConfig) error {
	for i, a := range cc.GetCommand() {
		if err := carriable(fmt.Sprintf("command[%d]", i), a); err != nil {
			return err
		}
	}
	for i, a := range cc.GetArgs() {
		if err := carriable(fmt.Sprintf("args[%d]", i), a); err != nil {
			return err
		}
	}
	return nil
}

func checkEnvs(envs []*rt.KeyValue) error {
	for i, kv := range envs {
		field := fmt.Sprintf("envs[%d].key", i)
		if kv.GetKey() == "" || strings.ContainsAny(kv.GetKey(), "=\x00") {
			return invalid(field, "%q is not a variable's name", kv.GetKey())
		}
		if err := checkNUL("envs["+kv.GetKey()+"]", string(kv.GetValue())); err != nil {
			return err
		}
	}
	return nil
}

func checkWorkingDir(dir string) error {
	if dir == "" {
		return nil
	}
	if !path.IsAbs(dir) {
		return invalid("working_dir", "%q is not absolute", dir)
	}
	return carriable("working_dir", dir)
}

func checkMounts(ms []*rt.Mount) error {
	for i, m := range ms {
		if err := within(fmt.Sprintf("mounts[%d]", i), checkMount(m)); err != nil {
			return err
		}
	}
	return nil
}

func checkDevices(cc *rt.ContainerConfig) error {
	for i, d := range cc.GetDevices() {
		if err := within(fmt.Sprintf("devices[%d]", i), checkDevice(d)); err != nil {
			return err
		}
	}
	for i, d := range cc.GetCDIDevices() {
		kind, name, ok := strings.Cut(d.GetName(), "=")
		vendor, class, ok2 := strings.Cut(kind, "/")
		if !ok || !ok2 || vendor == "" || class == "" || name == "" || checkText("", d.GetName()) != nil {
			return invalid(fmt.Sprintf("CDI_devices[%d].name", i), "%q is not like vendor/class=name", d.GetName())
		}
	}
	return nil
}

func checkSecurity(pod *rt.PodSandboxConfig, sc *rt.LinuxContainerSecurityContext) error {
	psc := pod.GetLinux().GetSecurityContext()
	if sc.GetPrivileged() && !psc.GetPrivileged() {
		return invalid("privileged", "the pod is not privileged")
	}
	if o := sc.GetNamespaceOptions(); o != nil && !sameUserns(o.GetUsernsOptions(), psc.GetNamespaceOptions().GetUsernsOptions()) {
		return invalid("namespace_options.userns_options", "differs from the pod's")
	}
	_, seccompErr := seccompProfile(sc)
	_, appArmorErr := appArmorProfile(sc)
	if sc.GetPrivileged() {
		seccompErr, appArmorErr = nil, nil // have no effect
	}
	return first(
		checkIdentity(sc),
		within("namespace_options", checkNamespaces(sc.GetNamespaceOptions())),
		checkCaps(sc.GetCapabilities()),
		checkSELinux(sc.GetSelinuxOptions()),
		checkPaths("masked_paths", sc.GetMaskedPaths()),
		checkPaths("readonly_paths", sc.GetReadonlyPaths()),
		seccompErr, appArmorErr,
	)
}

func checkPaths(field string, paths []string) error {
	for i, p := range paths {
		if err := checkPath(fmt.Sprintf("%s[%d]", field, i), p); err != nil {
			return err
		}
	}
	return nil
}

// LogPath is the absolute path of a container's log, below the pod's
// log_directory; "" when either part is missing: the output is discarded then.
func LogPath(pod *rt.PodSandboxConfig, cc *rt.ContainerConfig) (string, error) {
	dir, name := pod.GetLogDirectory(), cc.GetLogPath()
	if name == "" {
		return "", nil
	}
	if err := first(checkSteps("log_path", name), checkText("log_path", name)); err != nil {
		return "", err
	}
	clean := path.Join("/", name)
	if clean == "/" || strings.HasSuffix(name, "/") {
		return "", invalid("log_path", "%q names no file", name)
	}
	if dir == "" {
		return "", nil
	}
	return path.Join(dir, clean), nil
}

// DefaultSysctls are those a pod gets unless it or the operator says otherwise:
// low ports and ping sockets without privilege, which harm nobody in a network of
// the pod's own.
func DefaultSysctls() map[string]string {
	return map[string]string{
		"net.ipv4.ip_unprivileged_port_start": "0",
		"net.ipv4.ping_group_range":           "0 2147483647",
	}
}

// Sysctls are the sysctls of a pod's namespaces: those of defaults that apply to
// it, and its own. Keys have the form "net.ipv4.conf.eth0/1.forwarding": dots
// separate, a slash is a dot inside a name (see SysctlPath). Only sysctls of
// namespaces the pod owns are let through; others would change the host.
// net.* defaults are left out in a user namespace, where their ids may not exist.
func Sysctls(pod *rt.PodSandboxConfig, defaults map[string]string) (map[string]string, error) {
	own := Namespaces(pod)
	set := map[string]string{}
	for k, v := range defaults {
		if checkSysctl(k, v, own) == nil && !(own.User && strings.HasPrefix(k, "net.")) {
			set[k] = v
		}
	}
	given := pod.GetLinux().GetSysctls()
	from := map[string]string{}
	for _, raw := range slices.Sorted(maps.Keys(given)) {
		key, field := sysctlKey(raw), "linux.sysctls["+raw+"]"
		if err := checkSysctl(key, given[raw], own); err != nil {
			return nil, invalid(field, "%v", err)
		}
		if other, ok := from[key]; ok {
			return nil, invalid(field, "is %s again", other)
		}
		from[key], set[key] = raw, given[raw]
	}
	return set, nil
}

// sysctlKey puts dots where the request separates by slashes, as sysctl(8) does:
// the first of both characters in a key is its separator.
func sysctlKey(s string) string {
	if i := strings.IndexAny(s, "./"); i < 0 || s[i] == '.' {
		return s
	}
	return strings.NewReplacer(".", "/", "/", ".").Replace(s)
}

// SysctlPath is the file of a key of Sysctls, relative to /proc/sys.
func SysctlPath(key string) string {
	return strings.NewReplacer(".", "/", "/", ".").Replace(key)
}

func checkSysctl(key, value string, own Own) error {
	for step := range strings.SplitSeq(SysctlPath(key), "/") {
		if step == "" || step == "." || step == ".." {
			return fmt.Errorf("not the name of a sysctl")
		}
	}
	if strings.ContainsFunc(key, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return fmt.Errorf("not the name of a sysctl")
	}
	if strings.ContainsAny(value, "\x00\n") || len(value) >= 4096 {
		return fmt.Errorf("value %q is not one line", value)
	}
	switch {
	case strings.HasPrefix(key, "net."):
		if !own.Net {
			return fmt.Errorf("the pod uses the host's network")
		}
	case strings.HasPrefix(key, "fs.mqueue."), slices.Contains(ipcSysctls(), key):
		if !own.IPC {
			return fmt.Errorf("the pod uses the host's IPC")
		}
	default:
		return fmt.Errorf("belongs to no namespace of a pod")
	}
	return nil
}

// ipcSysctls lists those of ipc_namespaces(7) besides fs.mqueue.*.
func ipcSysctls() []string {
	return []string{
		"kernel.sem", "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced", "kernel.shm_next_id",
		"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.msg_next_id", "kernel.sem_next_id",
	}
}
