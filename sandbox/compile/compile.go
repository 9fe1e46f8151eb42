package compile

import (
	"cmp"
	"fmt"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Input is all that a container's configuration follows from. Container reads
// it only; nothing of the result shares memory with maps or slices of it that
// the caller may change later, except the id mappings of the pod's config.
type Input struct {
	Pod       *rt.PodSandboxConfig
	Container *rt.ContainerConfig
	Image     ImageConfig
	User      User // from ResolveUser
	Host      Host
	Paths     Paths
	Options   Options

	// Devices holds, for each entry of Container.Devices in order, the device
	// nodes found at its host_path, symlinks followed: one for a node, any number
	// for a directory. See Device for their paths.
	Devices [][]Device
	// Images holds the resolved content of each image mount, by its index in
	// Container.Mounts.
	Images map[int]ImageVolume
	// Volumes gives a prepared host directory for each path of Volumes(...).
	// A path without a directory gets no mount.
	Volumes map[string]string
	// Seccomp is the content of the file SeccompFile names, nil when it names none.
	Seccomp []byte
	// SELinux is the label the pod was allocated; unused when Host.SELinux is false.
	SELinux Label
}

// ImageConfig is what matters of an OCI image's config.
type ImageConfig struct {
	User       string
	Env        []string
	Entrypoint []string
	Cmd        []string
	WorkingDir string
	StopSignal string
	Volumes    []string // container paths
}

// Host is what the machine can do. The zero value is a cgroup v1 host without
// security modules, hugepages and swap accounting, whose kernel knows all
// capabilities this package knows.
type Host struct {
	CgroupV2      bool
	SystemdCgroup bool
	AppArmor      bool
	SELinux       bool
	NoSeccomp     bool     // the kernel has no seccomp filters
	Caps          []string // "CAP_…" known to the kernel and in the daemon's bounding set; nil: all known here
	Devices       []Device // nodes below /dev, for privileged containers
	Hugetlb       []string // page sizes the hugetlb controller has, "2MB"
	Swap          bool     // swap can be limited (memory.memsw.* or memory.swap.max)
	Hostname      string
	OOMScoreAdj   int // of the daemon: the floor when CanLowerOOM is false
	CanLowerOOM   bool
}

// Paths says where the pod's and the container's parts are.
type Paths struct {
	// Paths of namespaces to join; "" means the host's. PIDNew: a PID namespace
	// of the container's own, PID is unused then.
	Net, IPC, UTS, PID, User string
	PIDNew                   bool

	// Files of the pod bound over those of the image; "" for none. In a pod with
	// a user namespace they are bound id-mapped, so they belong to root on the host.
	Resolv, Hostname, Hosts string
	// Shm is the pod's /dev/shm, possibly "/proc/self/fd/N" of the runtime
	// program; "" is the host's for host IPC, else a tmpfs of the container's own.
	Shm string

	CgroupsPath string // linux.cgroupsPath, see CgroupsPath

	// Layers of the image, top first, and the writable layer: the root becomes a
	// mount at "/" for the native runtime. Without Lower the root file system is
	// mounted at Root for the runtime, in the bundle's "rootfs" where empty.
	Lower       []string
	Upper, Work string
	Root        string
}

// Options are the operator's choices. The zero value is the default.
type Options struct {
	PidsLimit       int64    // pids.max of a container; 0: none
	CgroupWritable  bool     // /sys/fs/cgroup is writable without privilege
	Tun             bool     // /dev/net/tun may be made and used
	DefaultCaps     []string // capabilities given by default; nil: DefaultCaps()
	AppArmorProfile string   // RuntimeDefault's name; "": AppArmorDefault; Unconfined: none
	EscapeEnv       bool     // the runtime program decodes EscapedEnv entries
	// NoHostDevices keeps the host's devices out of privileged containers, whose
	// device rules are then those of any container.
	NoHostDevices bool
	// DeviceOwner gives requested devices to the user the container runs as.
	DeviceOwner bool
}

// Container returns the OCI configuration of a container: runtime-spec 1.3, one
// for any runtime program, apart from the mount at "/" (see Paths.Lower). The
// spec has no annotations, hooks, rlimits or sysctls: the first three have no
// field in the CRI, and sysctls belong to the pod's namespaces.
//
// Errors wrap fs.ErrInvalid when the request is at fault; others say what the
// caller left out of in.
func Container(in Input) (*specs.Spec, error) {
	if err := CheckPod(in.Pod); err != nil {
		return nil, err
	}
	if err := CheckContainer(in.Pod, in.Container); err != nil {
		return nil, err
	}
	process, err := in.process()
	if err != nil {
		return nil, err
	}
	linux, err := in.linux()
	if err != nil {
		return nil, err
	}
	spec := &specs.Spec{
		Version: specs.Version,
		Process: process,
		Root:    &specs.Root{Path: cmp.Or(in.Paths.Root, "rootfs"), Readonly: in.security().GetReadonlyRootfs()},
		Linux:   linux,
	}
	if spec.Mounts, err = in.mounts(); err != nil {
		return nil, err
	}
	linux.RootfsPropagation = rootPropagation(in.Container.GetMounts())
	if err := in.confine(spec); err != nil {
		return nil, err
	}
	return spec, nil
}

func (in *Input) security() *rt.LinuxContainerSecurityContext {
	return in.Container.GetLinux().GetSecurityContext()
}

func (in *Input) privileged() bool { return in.security().GetPrivileged() }

// linux is the part of the spec outside the process, without mounts and confinement.
func (in *Input) linux() (*specs.Linux, error) {
	ns, err := in.namespaces()
	if err != nil {
		return nil, err
	}
	res, err := Resources(in.Container.GetLinux().GetResources(), in.Host)
	if err != nil {
		return nil, err
	}
	nodes, rules, err := in.devices()
	if err != nil {
		return nil, err
	}
	res.Devices = rules
	if in.Options.PidsLimit > 0 {
		limit := in.Options.PidsLimit
		res.Pids = &specs.LinuxPids{Limit: &limit}
	}
	linux := &specs.Linux{
		Namespaces:  ns,
		Resources:   res,
		Devices:     nodes,
		CgroupsPath: in.Paths.CgroupsPath,
	}
	if own := Namespaces(in.Pod); own.User {
		linux.UIDMappings, linux.GIDMappings = own.UIDs, own.GIDs
	}
	if sc := in.security(); !in.privileged() {
		linux.MaskedPaths = append([]string(nil), sc.GetMaskedPaths()...)
		linux.ReadonlyPaths = append([]string(nil), sc.GetReadonlyPaths()...)
	}
	return linux, nil
}

// invalid is an error for one field of the request.
func invalid(field, format string, args ...any) error {
	return &fieldError{field, fmt.Sprintf(format, args...)}
}
