package compile_test

import (
	"bytes"
	"encoding/json"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

var update = flag.Bool("update", false, "write testdata from the results")

// pod is what kubelet sends for a plain pod.
func pod() *rt.PodSandboxConfig {
	return &rt.PodSandboxConfig{
		Metadata:     &rt.PodSandboxMetadata{Name: "web", Namespace: "shop", Uid: "2f1e"},
		Hostname:     "web-0",
		LogDirectory: "/var/log/pods/shop_web_2f1e",
		Annotations:  map[string]string{"run.oci.handler": "wasm"},
		Linux: &rt.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/burstable/pod2f1e",
			SecurityContext: &rt.LinuxSandboxSecurityContext{
				NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER},
			},
		},
	}
}

// container is what kubelet sends for a container with nothing special.
func container() *rt.ContainerConfig {
	return &rt.ContainerConfig{
		Metadata:    &rt.ContainerMetadata{Name: "nginx"},
		Image:       &rt.ImageSpec{Image: "sha256:c0ffee"},
		LogPath:     "nginx/0.log",
		Annotations: map[string]string{"io.kubernetes.container.hash": "1"},
		Linux: &rt.LinuxContainerConfig{
			Resources: &rt.LinuxContainerResources{CpuShares: 102, CpuPeriod: 100000, OomScoreAdj: 1000},
			SecurityContext: &rt.LinuxContainerSecurityContext{
				NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER},
			},
		},
	}
}

func input() compile.Input {
	return compile.Input{
		Pod:       pod(),
		Container: container(),
		Image: compile.ImageConfig{
			Env:        []string{"PATH=/opt/bin:/bin", "LANG=C"},
			Entrypoint: []string{"/entry.sh"},
			Cmd:        []string{"nginx", "-g", "daemon off;"},
		},
		User: compile.User{Groups: []uint32{0}, Home: "/root", Name: "root"},
		Host: compile.Host{Hostname: "node1", CanLowerOOM: true, Swap: true},
		Paths: compile.Paths{
			Net: "/run/netns/berth-p", IPC: "/ns/ipc", UTS: "/ns/uts", PIDNew: true,
			Resolv: "/p/resolv.conf", Hostname: "/p/hostname", Hosts: "/p/hosts", Shm: "/proc/self/fd/3",
			CgroupsPath: "/kubepods/burstable/pod2f1e/c",
		},
	}
}

func sec(in *compile.Input) *rt.LinuxContainerSecurityContext {
	return in.Container.Linux.SecurityContext
}

func userns() *rt.UserNamespace {
	m := func() []*rt.IDMapping { return []*rt.IDMapping{{HostId: 131072, Length: 65536}} }
	return &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: m(), Gids: m()}
}

func goldens() map[string]func(in *compile.Input) {
	return map[string]func(in *compile.Input){
		"plain": func(in *compile.Input) {},
		"native": func(in *compile.Input) {
			in.Paths.Lower = []string{"/l/top", "/l/base"}
			in.Paths.Upper, in.Paths.Work = "/c/upper", "/c/work"
			in.Options.PidsLimit = 4096
			in.Options.Tun = true
		},
		"tty": func(in *compile.Input) {
			in.Container.Tty = true
			in.Container.Command = []string{"sh"}
			in.Container.Args = []string{"-l"}
			in.Container.WorkingDir = "/srv/./x/"
			in.Container.Envs = []*rt.KeyValue{{Key: "HOSTNAME", Value: []byte("mine")}, {Key: "A", Value: []byte("1=2\n3")}, {Key: "A", Value: []byte("")}}
		},
		"privileged": func(in *compile.Input) {
			in.Pod.Linux.SecurityContext.Privileged = true
			sec(in).Privileged = true
			sec(in).MaskedPaths = []string{"/proc/kcore"}
			sec(in).Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}
			in.Host.AppArmor, in.Host.SELinux = true, true
			in.SELinux = compile.Label{Process: "u:r:t:s0", Mount: "u:r:f:s0"}
			in.Host.Devices = []compile.Device{
				{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232, Mode: 0o660, GID: 104},
				{Path: "/dev/null", Type: "c", Major: 1, Minor: 3, Mode: 0o666},
				{Path: "/dev/pts/0", Type: "c", Major: 136, Minor: 0, Mode: 0o620},
				{Path: "/dev/sda", Type: "b", Major: 8, Minor: 0, Mode: 0o660},
			}
			in.Container.Devices = []*rt.Device{{HostPath: "/dev/sdb", ContainerPath: "/dev/sda", Permissions: "r"}}
			in.Devices = [][]compile.Device{{{Path: "/dev/sda", Type: "b", Major: 8, Minor: 16, Mode: 0o600}}}
		},
		"userns": func(in *compile.Input) {
			in.Pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = userns()
			sec(in).NamespaceOptions.UsernsOptions = userns()
			in.Paths.User = "/ns/user"
			in.Paths.Lower = []string{"/l/only"}
			in.Paths.Upper, in.Paths.Work = "/c/upper", "/c/work"
			in.Image.Volumes = []string{"/data", "/dev/x", "/data/../etc/v", "/vol/below"}
			in.Volumes = map[string]string{"/data": "/c/v0", "/etc/v": "/c/v1"}
			in.Container.Mounts = []*rt.Mount{{ContainerPath: "/vol", HostPath: "/h/vol", UidMappings: userns().Uids, GidMappings: userns().Gids}}
		},
		"hostall": func(in *compile.Input) {
			o := &rt.NamespaceOption{Network: rt.NamespaceMode_NODE, Pid: rt.NamespaceMode_NODE, Ipc: rt.NamespaceMode_NODE}
			in.Pod.Linux.SecurityContext.NamespaceOptions = o
			sec(in).NamespaceOptions = o
			in.Paths = compile.Paths{CgroupsPath: "/x/c"}
			in.Host.SELinux = true
			in.SELinux = compile.Label{Process: "u:r:t:s0", Mount: "u:r:f:s0"}
		},
		"hostusers": func(in *compile.Input) { // user namespace together with the host's others
			o := &rt.NamespaceOption{Network: rt.NamespaceMode_NODE, Pid: rt.NamespaceMode_NODE, Ipc: rt.NamespaceMode_NODE, UsernsOptions: userns()}
			o.UsernsOptions.Gids[0].Length = 5
			in.Pod.Linux.SecurityContext.NamespaceOptions = o
			sec(in).NamespaceOptions = o
			in.Paths = compile.Paths{User: "/ns/user", CgroupsPath: "/x/c"}
		},
		"mounts": func(in *compile.Input) {
			sec(in).ReadonlyRootfs = true
			in.Container.Mounts = []*rt.Mount{
				{ContainerPath: "/a/b/c", HostPath: "/h/abc", Readonly: true},
				{ContainerPath: "/dev/termination-log", HostPath: "/h/term"},
				{ContainerPath: "/etc/hosts", HostPath: "/h/hosts", SelinuxRelabel: true},
				{ContainerPath: "/a", HostPath: "/h/a", Propagation: rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
				{ContainerPath: "/twice", HostPath: "/h/1"},
				{ContainerPath: "/twice/", HostPath: "/h/2", ImageSubPath: "ignored"},
				{ContainerPath: "/rro", HostPath: "/h/rro", Readonly: true, RecursiveReadOnly: true, MountOptions: []string{"noexec", "nosuid"}},
				{ContainerPath: "/dev/shm", HostPath: "/h/shm"},
				{ContainerPath: "/img", Readonly: true, Image: &rt.ImageSpec{Image: "sha256:1"}},
				{ContainerPath: "/one", Readonly: true, Image: &rt.ImageSpec{Image: "sha256:1"}, ImageSubPath: "x"},
				{ContainerPath: "/file", Readonly: true, Image: &rt.ImageSpec{Image: "sha256:1"}, ImageSubPath: "f", MountOptions: []string{"noexec"}},
			}
			in.Images = map[int]compile.ImageVolume{8: {Layers: []string{"/l/t:op", "/l/base"}}, 9: {Layers: []string{"/l/base/x"}}, 10: {File: "/l/base/f"}}
		},
		"owndev": func(in *compile.Input) {
			in.Pod.Linux.SecurityContext.Privileged = true
			sec(in).Privileged = true
			in.Host.Devices = []compile.Device{{Path: "/dev/kvm", Type: "c", Major: 10, Minor: 232}}
			in.Container.Mounts = []*rt.Mount{
				{ContainerPath: "/dev", HostPath: "/dev"},
				{ContainerPath: "/sys", HostPath: "/sys"},
				{ContainerPath: "/etc", HostPath: "/etc", Propagation: rt.MountPropagation_PROPAGATION_BIDIRECTIONAL},
			}
		},
		"devices": func(in *compile.Input) {
			in.Container.Devices = []*rt.Device{
				{HostPath: "/dev/fuse", ContainerPath: "/dev/f", Permissions: "wr"},
				{HostPath: "/dev/dri"},
				{HostPath: "/dev/snd/", ContainerPath: "/dev/audio/"},
			}
			in.Devices = [][]compile.Device{
				{{Path: "/dev/f", Type: "c", Major: 10, Minor: 229, Mode: 0o666}},
				{{Path: "/dev/dri/card0", Type: "c", Major: 226, Minor: 0, Mode: 0o660, GID: 44}, {Path: "/dev/dri/by-path/x", Type: "c", Major: 226, Minor: 0, Mode: 0o660}},
				{{Path: "/dev/audio/timer", Type: "c", Major: 116, Minor: 33, Mode: 0o660}},
			}
			in.Options.DeviceOwner = true
			in.User = compile.User{UID: 1000, GID: 100, Groups: []uint32{100, 5}, Home: "/home/u"}
		},
		"secure": func(in *compile.Input) {
			sc := sec(in)
			sc.NoNewPrivs = true
			sc.MaskedPaths = []string{"/proc/kcore", "/proc/keys"}
			sc.ReadonlyPaths = []string{"/proc/sys"}
			sc.Capabilities = &rt.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"net_bind_service"}, AddAmbientCapabilities: []string{"CAP_NET_BIND_SERVICE"}}
			sc.SelinuxOptions = &rt.SELinuxOption{Level: "s0:c1,c2"}
			in.Host.SELinux, in.Host.AppArmor = true, true
			in.SELinux = compile.Label{Process: "system_u:system_r:container_t:s0:c3,c4", Mount: "system_u:object_r:container_file_t:s0:c3,c4"}
			in.Host.CgroupV2, in.Host.Hugetlb = true, []string{"2MB"}
			in.Container.Linux.Resources = &rt.LinuxContainerResources{
				CpuShares: 512, CpuQuota: -5, CpuPeriod: 100000, MemoryLimitInBytes: 64 << 20, OomScoreAdj: -997, CpusetCpus: "0-1", CpusetMems: "0",
				HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB", Limit: 4 << 20}, {PageSize: "1GB"}},
				Unified:        map[string]string{"memory.oom.group": "1"},
			}
		},
	}
}

func TestGolden(t *testing.T) {
	t.Parallel()
	for name, change := range goldens() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			in := input()
			change(&in)
			spec, err := compile.Container(in)
			if err != nil {
				t.Fatal(err)
			}
			got, err := json.MarshalIndent(spec, "", "  ")
			if err != nil {
				t.Fatal(err)
			}
			got = append(got, '\n')
			file := filepath.Join("testdata", name+".json")
			if *update {
				if err := os.WriteFile(file, got, 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(got, want) {
				t.Errorf("%s differs; look at it with -update and git diff\n%s", file, got)
			}
		})
	}
}

// Nothing of a request's text may turn up where only our own decisions belong.
func TestInertText(t *testing.T) {
	t.Parallel()
	in := input()
	in.Pod.Labels = map[string]string{"org.systemd.property.X": "1"}
	in.Container.Labels = map[string]string{"l": "2"}
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if spec.Annotations != nil || spec.Hooks != nil || spec.Linux.Sysctl != nil || spec.Process.Rlimits != nil || spec.Hostname != "" {
		t.Errorf("annotations %v, hooks %v, sysctl %v, rlimits %v, hostname %q", spec.Annotations, spec.Hooks, spec.Linux.Sysctl, spec.Process.Rlimits, spec.Hostname)
	}
}

// What the caller forgot is an error, but not the request's.
func TestMissingParts(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(in *compile.Input){
		"net":    func(in *compile.Input) { in.Paths.Net = "" },
		"ipc":    func(in *compile.Input) { in.Paths.IPC = "" },
		"uts":    func(in *compile.Input) { in.Paths.UTS = "" },
		"pid":    func(in *compile.Input) { in.Paths.PIDNew = false },
		"pidnew": func(in *compile.Input) { sec(in).NamespaceOptions.Pid = rt.NamespaceMode_NODE },
		"user": func(in *compile.Input) {
			o := userns()
			in.Pod.Linux.SecurityContext.NamespaceOptions.UsernsOptions = o
			sec(in).NamespaceOptions.UsernsOptions = o
		},
		"image": func(in *compile.Input) {
			in.Container.Mounts = []*rt.Mount{{ContainerPath: "/i", Image: &rt.ImageSpec{Image: "x"}}}
		},
		"layers": func(in *compile.Input) {
			in.Container.Mounts = []*rt.Mount{{ContainerPath: "/i", Image: &rt.ImageSpec{Image: "x"}}}
			in.Images = map[int]compile.ImageVolume{0: {}}
		},
		"elsewhere": func(in *compile.Input) {
			in.Container.Devices = []*rt.Device{{HostPath: "/dev/dri"}}
			in.Devices = [][]compile.Device{{{Path: "/dev/drink"}}}
		},
	} {
		in := input()
		change(&in)
		if _, err := compile.Container(in); err == nil || isInvalid(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestSharedPID(t *testing.T) {
	t.Parallel()
	in := input()
	in.Pod.Linux.SecurityContext.NamespaceOptions = nil
	sec(&in).NamespaceOptions = nil
	in.Paths.PIDNew, in.Paths.PID = false, "/ns/pid"
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.Contains(spec.Linux.Namespaces, specs.LinuxNamespace{Type: specs.PIDNamespace, Path: "/ns/pid"}) {
		t.Errorf("namespaces %v", spec.Linux.Namespaces)
	}
}

func TestPIDMode(t *testing.T) {
	t.Parallel()
	const pod, ctr, node, target = rt.NamespaceMode_POD, rt.NamespaceMode_CONTAINER, rt.NamespaceMode_NODE, rt.NamespaceMode_TARGET
	for _, c := range []struct{ pod, ctr, want rt.NamespaceMode }{
		{pod, pod, pod}, {pod, ctr, ctr}, {pod, node, node}, {pod, target, target},
		{ctr, pod, ctr}, {ctr, ctr, ctr}, {node, pod, node}, {node, node, node}, {node, ctr, ctr},
	} {
		in := input()
		in.Pod.Linux.SecurityContext.NamespaceOptions.Pid = c.pod
		o := sec(&in).NamespaceOptions
		o.Pid, o.TargetId = c.ctr, "abc"
		got, id := compile.PIDMode(in.Pod, in.Container)
		if got != c.want || (id != "") != (got == target) {
			t.Errorf("pod %v container %v: %v %q", c.pod, c.ctr, got, id)
		}
	}
}

func TestArgv(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ command, args, entry, cmd, want string }{
		{"a b", "c", "e", "m", "a b c"},
		{"a", "", "e", "m", "a"},
		{"", "c d", "e f", "m", "e f c d"},
		{"", "c", "", "m", "c"},
		{"", "", "e", "m", "e m"},
		{"", "", "", "m", "m"},
		{"", "", "", "", ""},
	} {
		in := input()
		in.Container.Command, in.Container.Args = strings.Fields(c.command), strings.Fields(c.args)
		in.Image.Entrypoint, in.Image.Cmd = strings.Fields(c.entry), strings.Fields(c.cmd)
		spec, err := compile.Container(in)
		if c.want == "" {
			if !isInvalid(err) {
				t.Errorf("no command: %v", err)
			}
			continue
		}
		if err != nil || strings.Join(spec.Process.Args, " ") != c.want {
			t.Errorf("%+v: %v %v", c, spec.Process.Args, err)
		}
	}
	in := input()
	in.Image.Entrypoint = []string{""}
	if _, err := compile.Container(in); !isInvalid(err) {
		t.Errorf("empty program: %v", err)
	}
}

func TestWorkingDir(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ cri, image, want string }{
		{"", "", "/"}, {"", "app", "/app"}, {"", "../../x", "/x"}, {"/w", "/i", "/w"}, {"/w/../v//", "", "/v"},
	} {
		in := input()
		in.Container.WorkingDir, in.Image.WorkingDir = c.cri, c.image
		spec, err := compile.Container(in)
		if err != nil || spec.Process.Cwd != c.want {
			t.Errorf("%+v: %v", c, err)
		}
	}
	in := input()
	in.Image.WorkingDir = "/a\x00b"
	if _, err := compile.Container(in); !isInvalid(err) {
		t.Errorf("NUL: %v", err)
	}
}

func TestExecProcess(t *testing.T) {
	t.Parallel()
	in := input()
	in.User.Groups = []uint32{0, 7}
	spec, err := compile.Container(in)
	if err != nil {
		t.Fatal(err)
	}
	before, _ := json.Marshal(spec)
	p, err := compile.Process(spec, []string{"sh", "-c", "id"}, true)
	if err != nil {
		t.Fatal(err)
	}
	if !p.Terminal || !slices.Contains(p.Env, "TERM=xterm") || p.Args[2] != "id" {
		t.Errorf("%+v", p)
	}
	p.Env[0], p.User.AdditionalGids[0], p.Capabilities.Bounding[0], *p.OOMScoreAdj = "X=", 9, "X", 1
	if after, _ := json.Marshal(spec); !bytes.Equal(before, after) {
		t.Error("the container's spec changed")
	}
	for _, cmd := range [][]string{nil, {""}, {"a\x00"}, {"a", "\xff"}} {
		if _, err := compile.Process(spec, cmd, false); !isInvalid(err) {
			t.Errorf("%q: %v", cmd, err)
		}
	}
	in.Container.Tty = true
	in.Container.Envs = []*rt.KeyValue{{Key: "TERM", Value: []byte("vt100")}}
	if spec, err = compile.Container(in); err != nil {
		t.Fatal(err)
	}
	if p, _ = compile.Process(spec, []string{"sh"}, true); slices.Contains(p.Env, "TERM=xterm") {
		t.Errorf("TERM overridden: %v", p.Env)
	}
}

func TestHostname(t *testing.T) {
	t.Parallel()
	p := pod()
	if got := compile.Hostname(p, "node1"); got != "web-0" {
		t.Error(got)
	}
	p.Hostname = ""
	if got := compile.Hostname(p, "node1"); got != "node1" {
		t.Error(got)
	}
	p = pod()
	p.Linux.SecurityContext.NamespaceOptions.Network = rt.NamespaceMode_NODE
	if got := compile.Hostname(p, "node1"); got != "node1" {
		t.Error(got)
	}
}

func isInvalid(err error) bool { return errorsIs(err, fs.ErrInvalid) }

func toJSON(v any) string {
	b, err := json.Marshal(v)
	if err != nil {
		return err.Error()
	}
	return string(b)
}

func equalJSON(a, b any) bool { return toJSON(a) == toJSON(b) }
