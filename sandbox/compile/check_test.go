package compile_test

//lint:file-ignore SA1019 clients still send the deprecated strings of profiles

import (
	"path"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func TestCheckPod(t *testing.T) {
	t.Parallel()
	if err := compile.CheckPod(pod()); err != nil {
		t.Fatal(err)
	}
	type p = *rt.PodSandboxConfig
	sc := func(p p) *rt.LinuxSandboxSecurityContext { return p.Linux.SecurityContext }
	ns := func(p p) *rt.NamespaceOption { return sc(p).NamespaceOptions }
	one := &rt.Int64Value{Value: 1}
	for _, c := range []struct {
		field  string // the error opens with it; "": no error
		change func(p p)
	}{
		{"metadata: ", func(p p) { p.Metadata = nil }},
		{"metadata.name: ", func(p p) { p.Metadata.Name = "" }},
		{"metadata.name: ", func(p p) { p.Metadata.Name = "a/b" }},
		{"metadata.name: ", func(p p) { p.Metadata.Name = "." }},
		{"metadata.name: ", func(p p) { p.Metadata.Name = strings.Repeat("x", 4096) }},
		{"metadata.namespace: ", func(p p) { p.Metadata.Namespace = ".." }},
		{"metadata.uid: ", func(p p) { p.Metadata.Uid = "a\nb" }},
		{"metadata.uid: ", func(p p) { p.Metadata.Uid = "a\x00b" }},
		{"hostname: ", func(p p) { p.Hostname = strings.Repeat("x", 65) }},
		{"hostname: ", func(p p) { p.Hostname = "a b" }},
		{"hostname: ", func(p p) { p.Hostname = "a\nb" }},
		{"", func(p p) { p.Hostname = strings.Repeat("x", 64) }},
		{"log_directory: ", func(p p) { p.LogDirectory = "var/log" }},
		{"log_directory: ", func(p p) { p.LogDirectory = "/var/../etc" }},
		{"log_directory: ", func(p p) { p.LogDirectory = "/var/\nx" }},
		{"", func(p p) { p.LogDirectory = "" }},
		{"dns_config.servers: ", func(p p) { p.DnsConfig = &rt.DNSConfig{Servers: []string{"1.1.1.1\nsearch x"}} }},
		{"dns_config.searches: ", func(p p) { p.DnsConfig = &rt.DNSConfig{Searches: []string{""}} }},
		{"dns_config.options: ", func(p p) { p.DnsConfig = &rt.DNSConfig{Options: []string{"a b"}} }},
		{"port_mappings[0].protocol: ", func(p p) { p.PortMappings = []*rt.PortMapping{{Protocol: 3}} }},
		{"port_mappings[0].host_port: ", func(p p) { p.PortMappings = []*rt.PortMapping{{HostPort: 65536}} }},
		{"port_mappings[1].container_port: ", func(p p) { p.PortMappings = []*rt.PortMapping{{}, {HostPort: 80}} }},
		{"port_mappings[0].host_ip: ", func(p p) { p.PortMappings = []*rt.PortMapping{{HostIp: "fe80::1%eth0"}} }},
		{"port_mappings[0].container_port: ", func(p p) { p.PortMappings = []*rt.PortMapping{{ContainerPort: -1}} }},
		{"port_mappings[1].host_ip: ", func(p p) { p.PortMappings = []*rt.PortMapping{{HostIp: "::1"}, {HostIp: "x"}} }},
		{"linux.cgroup_parent: ", func(p p) { p.Linux.CgroupParent = "/a/../b" }},
		{"linux.overhead.cpu_shares: ", func(p p) { p.Linux.Overhead = &rt.LinuxContainerResources{CpuShares: -1} }},
		{"linux.resources.oom_score_adj: ", func(p p) { p.Linux.Resources = &rt.LinuxContainerResources{OomScoreAdj: 1001} }},
		{"linux.sysctls[kernel.panic]: ", func(p p) { p.Linux.Sysctls = map[string]string{"kernel.panic": "1"} }},
		{"linux.security_context.run_as_group: ", func(p p) { sc(p).RunAsGroup = one }},
		{"", func(p p) { sc(p).RunAsGroup, sc(p).RunAsUser = one, one }},
		{"linux.security_context.run_as_user: ", func(p p) { sc(p).RunAsUser = &rt.Int64Value{Value: -5} }},
		{"linux.security_context.supplemental_groups: ", func(p p) { sc(p).SupplementalGroups = []int64{-1} }},
		{"linux.security_context.supplemental_groups_policy: ", func(p p) { sc(p).SupplementalGroupsPolicy = 7 }},
		{"linux.security_context.selinux_options.role: ", func(p p) { sc(p).SelinuxOptions = &rt.SELinuxOption{Role: "a:b"} }},
		{"linux.security_context.seccomp.localhost_ref: ", func(p p) { sc(p).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost} }},
		{"linux.security_context.apparmor: ", func(p p) { sc(p).Apparmor = &rt.SecurityProfile{ProfileType: 8} }},
		{"linux.security_context.namespace_options.network: ", func(p p) { ns(p).Network = rt.NamespaceMode_CONTAINER }},
		{"linux.security_context.namespace_options.ipc: ", func(p p) { ns(p).Ipc = rt.NamespaceMode_TARGET }},
		{"linux.security_context.namespace_options.pid: ", func(p p) { ns(p).Pid = rt.NamespaceMode_TARGET }},
		{"linux.security_context.namespace_options.pid: ", func(p p) { ns(p).Pid = 4 }},
		{"", func(p p) { ns(p).UsernsOptions = userns() }},
		{"", func(p p) { ns(p).UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_NODE} }},
		{"linux.security_context.namespace_options.userns_options.mode: ", func(p p) { ns(p).UsernsOptions = userns(); ns(p).UsernsOptions.Mode = rt.NamespaceMode_NODE }},
		{"linux.security_context.namespace_options.userns_options.mode: ", func(p p) { ns(p).UsernsOptions = userns(); ns(p).UsernsOptions.Mode = rt.NamespaceMode_CONTAINER }},
		{"linux.security_context.namespace_options.userns_options.uids: ", func(p p) { ns(p).UsernsOptions = &rt.UserNamespace{} }},
		{"linux.security_context.namespace_options.userns_options.gids: ", func(p p) { u := userns(); u.Gids = append(u.Gids, u.Gids[0]); ns(p).UsernsOptions = u }},
		{"linux.security_context.namespace_options.userns_options.uids: ", func(p p) { u := userns(); u.Uids[0].ContainerId = 1; ns(p).UsernsOptions = u }},
		{"linux.security_context.namespace_options.userns_options.uids: ", func(p p) { u := userns(); u.Uids[0].Length = 0; ns(p).UsernsOptions = u }},
		{"linux.security_context.namespace_options.userns_options.uids: ", func(p p) { u := userns(); u.Uids[0].HostId = 1<<32 - 2; ns(p).UsernsOptions = u }},
	} {
		p := pod()
		c.change(p)
		expect(t, compile.CheckPod(p), c.field)
	}
	expect(t, compile.CheckPod(nil), "config: ")
}

func expect(t *testing.T, err error, field string) {
	t.Helper()
	switch {
	case field == "" && err != nil:
		t.Errorf("refused: %v", err)
	case field != "" && (!isInvalid(err) || !strings.HasPrefix(err.Error(), field)):
		t.Errorf("want %s got %v", field, err)
	}
}

func TestCheckContainer(t *testing.T) {
	t.Parallel()
	type c = *rt.ContainerConfig
	sc := func(c c) *rt.LinuxContainerSecurityContext { return c.Linux.SecurityContext }
	mount := func(f func(m *rt.Mount)) func(c) {
		return func(c c) {
			m := &rt.Mount{ContainerPath: "/x", HostPath: "/h"}
			f(m)
			c.Mounts = []*rt.Mount{m}
		}
	}
	device := func(d *rt.Device) func(c) { return func(c c) { c.Devices = []*rt.Device{d} } }
	for _, tc := range []struct {
		field  string
		change func(c c)
	}{
		{"", func(c c) {}},
		{"metadata: ", func(c c) { c.Metadata = nil }},
		{"metadata.name: ", func(c c) { c.Metadata.Name = "" }},
		{"metadata.name: ", func(c c) { c.Metadata.Name = "../x" }},
		{"image.image: ", func(c c) { c.Image = nil }},
		{"command[0]: ", func(c c) { c.Command = []string{"a\x00"} }},
		{"args[1]: ", func(c c) { c.Args = []string{"a", "\xff"} }},
		{"envs[0].key: ", func(c c) { c.Envs = []*rt.KeyValue{{Key: "A=B"}} }},
		{"envs[0].key: ", func(c c) { c.Envs = []*rt.KeyValue{{Key: ""}} }},
		{"envs[A]: ", func(c c) { c.Envs = []*rt.KeyValue{{Key: "A", Value: []byte("x\x00y")}} }},
		{"working_dir: ", func(c c) { c.WorkingDir = "rel" }},
		{"working_dir: ", func(c c) { c.WorkingDir = "/a\x00" }},
		{"stop_signal: ", func(c c) { c.StopSignal = 66 }},
		{"stop_signal: ", func(c c) { c.StopSignal = -1 }},
		{"log_path: ", func(c c) { c.LogPath = "../../etc/cron.d/x" }},
		{"log_path: ", func(c c) { c.LogPath = "a/\nb" }},
		{"log_path: ", func(c c) { c.LogPath = "/" }},
		{"log_path: ", func(c c) { c.LogPath = "a/" }},
		{"mounts[0].container_path: ", mount(func(m *rt.Mount) { m.ContainerPath = "" })},
		{"mounts[0].container_path: ", mount(func(m *rt.Mount) { m.ContainerPath = "/a/.." })},
		{"mounts[0].container_path: ", mount(func(m *rt.Mount) { m.ContainerPath = "/a\x00" })},
		{"mounts[0].host_path: ", mount(func(m *rt.Mount) { m.HostPath = "" })},
		{"mounts[0].host_path: ", mount(func(m *rt.Mount) { m.HostPath = "h" })},
		{"mounts[0].host_path: ", mount(func(m *rt.Mount) { m.HostPath = "/h\x00" })},
		{"mounts[0].host_path: ", mount(func(m *rt.Mount) { m.Image = &rt.ImageSpec{Image: "x"} })},
		{"mounts[0].image.image: ", mount(func(m *rt.Mount) { m.HostPath, m.Image = "", &rt.ImageSpec{} })},
		{"mounts[0].image_sub_path: ", mount(func(m *rt.Mount) { m.HostPath, m.Image, m.ImageSubPath = "", &rt.ImageSpec{Image: "x"}, "a/../../b" })},
		{"mounts[0].image_sub_path: ", mount(func(m *rt.Mount) { m.HostPath, m.Image, m.ImageSubPath = "", &rt.ImageSpec{Image: "x"}, "/a" })},
		{"", mount(func(m *rt.Mount) { m.ImageSubPath = "/../a" })},
		{"mounts[0].propagation: ", mount(func(m *rt.Mount) { m.Propagation = 3 })},
		{"mounts[0].recursive_read_only: ", mount(func(m *rt.Mount) { m.RecursiveReadOnly = true })},
		{"mounts[0].recursive_read_only: ", mount(func(m *rt.Mount) { m.RecursiveReadOnly, m.Readonly, m.Propagation = true, true, 1 })},
		{"", mount(func(m *rt.Mount) { m.RecursiveReadOnly, m.Readonly = true, true })},
		{"mounts[0].uidMappings: ", mount(func(m *rt.Mount) { m.UidMappings = userns().Uids })},
		{"mounts[0].uidMappings: ", mount(func(m *rt.Mount) { m.UidMappings = userns().Uids; m.GidMappings = []*rt.IDMapping{{}} })},
		{"mounts[0].mount_options: ", mount(func(m *rt.Mount) { m.MountOptions = []string{"nodev", "suid"} })},
		{"", mount(func(m *rt.Mount) { m.MountOptions = []string{"nodev", "nosuid", "noexec"} })},
		{"devices[0].host_path: ", device(&rt.Device{HostPath: "dev/x"})},
		{"devices[0].host_path: ", device(&rt.Device{HostPath: "/dev/../x"})},
		{"devices[0].container_path: ", device(&rt.Device{HostPath: "/dev/x", ContainerPath: "x"})},
		{"devices[0].permissions: ", device(&rt.Device{HostPath: "/dev/x", Permissions: "rx"})},
		{"CDI_devices[0].name: ", func(c c) { c.CDIDevices = []*rt.CDIDevice{{Name: "gpu0"}} }},
		{"CDI_devices[0].name: ", func(c c) { c.CDIDevices = []*rt.CDIDevice{{Name: "v/=x"}} }},
		{"", func(c c) { c.CDIDevices = []*rt.CDIDevice{{Name: "vendor.com/gpu=0"}} }},
		{"linux.resources.cpu_period: ", func(c c) { c.Linux.Resources.CpuPeriod = 999 }},
		{"linux.security_context.privileged: ", func(c c) { sc(c).Privileged = true }},
		{"linux.security_context.run_as_group: needs run_as_user or run_as_username", func(c c) { sc(c).RunAsGroup = &rt.Int64Value{} }},
		{"linux.security_context.run_as_username: ", func(c c) { sc(c).RunAsUsername = "99999999999" }},
		{"linux.security_context.capabilities.add_capabilities: ", func(c c) { sc(c).Capabilities = &rt.Capability{AddCapabilities: []string{"NET_ADMN"}} }},
		{"linux.security_context.capabilities.drop_capabilities: ", func(c c) { sc(c).Capabilities = &rt.Capability{DropCapabilities: []string{"CAP_"}} }},
		{"linux.security_context.capabilities.add_ambient_capabilities: ", func(c c) { sc(c).Capabilities = &rt.Capability{AddAmbientCapabilities: []string{"x"}} }},
		{"linux.security_context.masked_paths[0]: ", func(c c) { sc(c).MaskedPaths = []string{"proc"} }},
		{"linux.security_context.readonly_paths[1]: ", func(c c) { sc(c).ReadonlyPaths = []string{"/proc", "/proc/../etc"} }},
		{"linux.security_context.selinux_options.level: ", func(c c) { sc(c).SelinuxOptions = &rt.SELinuxOption{Level: "s0\n"} }},
		{"linux.security_context.seccomp: ", func(c c) { sc(c).Seccomp = &rt.SecurityProfile{ProfileType: 9} }},
		{"linux.security_context.seccomp.localhost_ref: ", func(c c) { sc(c).SeccompProfilePath = "localhost/rel.json" }},
		{"linux.security_context.seccomp: ", func(c c) { sc(c).SeccompProfilePath = "default" }},
		{"linux.security_context.apparmor: ", func(c c) { sc(c).ApparmorProfile = "localhost/" }},
		{"", func(c c) { sc(c).ApparmorProfile = "localhost/x"; sc(c).SeccompProfilePath = "localhost//x" }},
		{"linux.security_context.namespace_options.network: ", func(c c) { sc(c).NamespaceOptions.Network = rt.NamespaceMode_CONTAINER }},
		{"linux.security_context.namespace_options.target_id: ", func(c c) { sc(c).NamespaceOptions.Pid = rt.NamespaceMode_TARGET }},
		{"linux.security_context.namespace_options.target_id: ", func(c c) {
			sc(c).NamespaceOptions.Pid = rt.NamespaceMode_TARGET
			sc(c).NamespaceOptions.TargetId = "../1"
		}},
		{"linux.security_context.namespace_options.userns_options: ", func(c c) { sc(c).NamespaceOptions.UsernsOptions = userns() }},
		{"", func(c c) { sc(c).NamespaceOptions = nil }},
	} {
		cc := container()
		tc.change(cc)
		expect(t, compile.CheckContainer(pod(), cc), tc.field)
	}
	expect(t, compile.CheckContainer(pod(), nil), "config: ")
}

func TestUsernsMustMatch(t *testing.T) {
	t.Parallel()
	p, c := pod(), container()
	p.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
	const field = "linux.security_context.namespace_options.userns_options: "
	expect(t, compile.CheckContainer(p, c), field)
	o := c.Linux.SecurityContext.NamespaceOptions
	o.UsernsOptions = userns()
	expect(t, compile.CheckContainer(p, c), "")
	o.UsernsOptions.Uids[0].HostId++
	expect(t, compile.CheckContainer(p, c), field)
	o.UsernsOptions = userns()
	o.UsernsOptions.Gids = append(o.UsernsOptions.Gids, &rt.IDMapping{})
	expect(t, compile.CheckContainer(p, c), field)
}

func TestLogPath(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ dir, name, want string }{
		{"/logs", "c/0.log", "/logs/c/0.log"}, {"/logs", "/c/0.log", "/logs/c/0.log"}, {"/logs", "", ""}, {"", "c/0.log", ""},
	} {
		got, err := compile.LogPath(&rt.PodSandboxConfig{LogDirectory: c.dir}, &rt.ContainerConfig{LogPath: c.name})
		if err != nil || got != c.want {
			t.Errorf("%+v: %q %v", c, got, err)
		}
	}
}

func FuzzLogPath(f *testing.F) {
	f.Add("/var/log/pods/x", "c/0.log")
	f.Add("/l", "../..//x")
	f.Add("/l", "...")
	f.Fuzz(func(t *testing.T, dir, name string) {
		p := pod()
		p.LogDirectory = dir
		if compile.CheckPod(p) != nil {
			return
		}
		got, err := compile.LogPath(p, &rt.ContainerConfig{LogPath: name})
		if err != nil || got == "" {
			return
		}
		if root := strings.TrimSuffix(path.Clean(dir), "/"); !strings.HasPrefix(got, root+"/") || path.Clean(got) != got {
			t.Errorf("%q %q: %q", dir, name, got)
		}
	})
}

// Any bytes that decode as a request are compiled or refused, and what comes
// out of a request that passes holds no climbing paths.
func FuzzContainer(f *testing.F) {
	for _, change := range goldens() {
		in := input()
		change(&in)
		p, _ := proto.Marshal(in.Pod)
		c, _ := proto.Marshal(in.Container)
		f.Add(p, c)
	}
	f.Fuzz(func(t *testing.T, p, c []byte) {
		in := input()
		in.Pod, in.Container = &rt.PodSandboxConfig{}, &rt.ContainerConfig{}
		if proto.Unmarshal(p, in.Pod) != nil || proto.Unmarshal(c, in.Container) != nil {
			return
		}
		in.Paths.User = "/ns/user"
		spec, err := compile.Container(in)
		if err != nil {
			return
		}
		deep := 0
		for _, m := range spec.Mounts {
			if path.Clean(m.Destination) != m.Destination || m.Destination[0] != '/' || m.Destination == "/" {
				t.Errorf("mount at %q", m.Destination)
			}
			d := strings.Count(m.Destination, "/")
			if d < deep {
				t.Errorf("%q after deeper ones", m.Destination)
			}
			deep = d
		}
		seen := map[string]bool{}
		for _, kv := range spec.Process.Env {
			name, _, ok := strings.Cut(kv, "=")
			if !ok || name == "" || seen[name] {
				t.Errorf("environment entry %q", kv)
			}
			seen[name] = true
		}
	})
}
