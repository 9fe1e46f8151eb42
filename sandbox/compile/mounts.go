package compile

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ImageVolume is the content of an image mount, the sub path already applied:
// directories to merge, top first, or one file. Dir is where the runtime program
// sees several layers merged and id-mapped already, "" where it merges them itself.
type ImageVolume struct {
	Layers []string
	File   string
	Dir    string
}

// mounts lists all mounts in the order in which they are made: parents before
// children, and what is equally deep in the order default, pod file, image
// volume, CRI. A CRI mount takes the place of what would else be mounted there,
// and of default mounts below it.
func (in *Input) mounts() ([]specs.Mount, error) {
	var list []specs.Mount
	for _, m := range in.defaultMounts() {
		if !coveredBy(in.Container, m.Destination) {
			list = append(list, m)
		}
	}
	list = append(list, in.podFiles()...)
	for _, at := range Volumes(in.Container, in.Image) {
		if dir := in.Volumes[at]; dir != "" {
			list = append(list, in.mapped(specs.Mount{Destination: at, Type: "bind", Source: dir, Options: []string{"rbind", "rprivate", "rw"}}))
		}
	}
	own, err := in.requestedMounts()
	if err != nil {
		return nil, err
	}
	list = append(list, own...)
	slices.SortStableFunc(list, func(a, b specs.Mount) int { return depth(a.Destination) - depth(b.Destination) })
	if len(in.Paths.Lower) > 0 {
		list = append([]specs.Mount{in.root()}, list...)
	}
	return list, nil
}

// depth is 1 for a directory of the root.
func depth(p string) int { return strings.Count(path.Clean(p), "/") }

// target is where a CRI mount goes.
func target(m *rt.Mount) string { return path.Join("/", m.GetContainerPath()) }

// mounted reports whether the request mounts something at p.
func (in *Input) mounted(p string) bool {
	return slices.ContainsFunc(in.Container.GetMounts(), func(m *rt.Mount) bool { return target(m) == p })
}

// coveredBy reports whether the request mounts something at p or above it. A
// default mount inside a volume would be in the way of the volume's own content,
// and would reach the host where the volume is shared.
func coveredBy(cc *rt.ContainerConfig, p string) bool {
	return slices.ContainsFunc(cc.GetMounts(), func(m *rt.Mount) bool { return under(target(m), p) })
}

// under reports whether p is dir or lies below it.
func under(dir, p string) bool {
	return p == dir || strings.HasPrefix(p, strings.TrimSuffix(dir, "/")+"/")
}

// root is the overlay that becomes "/".
func (in *Input) root() specs.Mount {
	opts := []string{"volatile"}
	for _, l := range in.Paths.Lower {
		opts = append(opts, "lowerdir+="+l)
	}
	opts = append(opts, "upperdir="+in.Paths.Upper, "workdir="+in.Paths.Work)
	return in.mapped(specs.Mount{Destination: "/", Type: "overlay", Source: "overlay", Options: opts})
}

// mapped gives a mount the pod's id mappings, if the pod has a user namespace.
func (in *Input) mapped(m specs.Mount) specs.Mount {
	if own := Namespaces(in.Pod); own.User {
		m.UIDMappings, m.GIDMappings = own.UIDs, own.GIDs
	}
	return m
}

func (in *Input) defaultMounts() []specs.Mount {
	own := Namespaces(in.Pod)
	rw := "ro"
	if in.privileged() {
		rw = "rw"
	}
	cg := rw
	if in.Options.CgroupWritable {
		cg = "rw"
	}
	proc := specs.Mount{Destination: "/proc", Type: "proc", Source: "proc", Options: []string{"nosuid", "noexec", "nodev"}}
	sys := specs.Mount{Destination: "/sys", Type: "sysfs", Source: "sysfs", Options: []string{"nosuid", "noexec", "nodev", rw}}
	mqueue := specs.Mount{Destination: "/dev/mqueue", Type: "mqueue", Source: "mqueue", Options: []string{"nosuid", "noexec", "nodev"}}
	if own.User {
		// A user namespace may mount these only for namespaces it owns.
		if mode, _ := PIDMode(in.Pod, in.Container); mode == rt.NamespaceMode_NODE {
			proc = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind", "nosuid", "noexec", "nodev"}}
		}
		if !own.Net {
			sys = specs.Mount{Destination: "/sys", Type: "bind", Source: "/sys", Options: []string{"rbind", "nosuid", "noexec", "nodev", "ro"}}
		}
		if !own.IPC {
			mqueue = specs.Mount{Destination: "/dev/mqueue", Type: "bind", Source: "/dev/mqueue", Options: []string{"bind", "nosuid", "noexec", "nodev"}}
		}
	}
	pts := []string{"nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"}
	if !own.User || own.GIDs[0].Size > ttyGroup {
		pts = append(pts, fmt.Sprintf("gid=%d", ttyGroup))
	}
	return []specs.Mount{
		proc,
		{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		{Destination: "/dev/pts", Type: "devpts", Source: "devpts", Options: pts},
		mqueue,
		in.shm(),
		sys,
		{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"nosuid", "noexec", "nodev", "relatime", cg}},
	}
}

// ttyGroup is the gid of "tty" in every distribution; devpts needs it mapped.
const ttyGroup = 5

func (in *Input) shm() specs.Mount {
	source := in.Paths.Shm
	if source == "" && !Namespaces(in.Pod).IPC {
		source = "/dev/shm"
	}
	if source == "" {
		return specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm", Options: []string{"nosuid", "noexec", "nodev", "mode=1777", "size=65536k"}}
	}
	return specs.Mount{Destination: "/dev/shm", Type: "bind", Source: source, Options: []string{"bind", "nosuid", "noexec", "nodev", "rw"}}
}

// podFiles binds the pod's files below /etc, unless the request mounts the file
// itself, or shares a directory above it with the host.
func (in *Input) podFiles() []specs.Mount {
	var list []specs.Mount
	rw := "rw"
	if in.security().GetReadonlyRootfs() {
		rw = "ro"
	}
	for _, f := range []struct{ at, from string }{
		{"/etc/hosts", in.Paths.Hosts},
		{"/etc/hostname", in.Paths.Hostname},
		{"/etc/resolv.conf", in.Paths.Resolv},
	} {
		if f.from == "" || in.mounted(f.at) || sharedAbove(in.Container, f.at) {
			continue
		}
		list = append(list, in.mapped(specs.Mount{Destination: f.at, Type: "bind", Source: f.from, Options: []string{"bind", "rprivate", "nosuid", "nodev", "noexec", rw}}))
	}
	return list
}

func sharedAbove(cc *rt.ContainerConfig, p string) bool {
	return slices.ContainsFunc(cc.GetMounts(), func(m *rt.Mount) bool {
		return m.GetPropagation() == rt.MountPropagation_PROPAGATION_BIDIRECTIONAL && under(target(m), p)
	})
}

// Volumes lists the paths of the image's volumes that need a directory of the
// container's own, clean and sorted: those that neither a CRI mount nor a default
// mount covers.
func Volumes(cc *rt.ContainerConfig, img ImageConfig) []string {
	set := map[string]bool{}
	for _, v := range img.Volumes {
		p := path.Join("/", v)
		system := p == "/" || under("/proc", p) || under("/sys", p) || under("/dev", p)
		if !system && checkNUL("", p) == nil && !coveredBy(cc, p) {
			set[p] = true
		}
	}
	return slices.Sorted(maps.Keys(set))
}

// requestedMounts are the request's own; of several at one place the last.
func (in *Input) requestedMounts() ([]specs.Mount, error) {
	var list []specs.Mount
	ms := in.Container.GetMounts()
	for i, m := range ms {
		if slices.ContainsFunc(ms[i+1:], func(n *rt.Mount) bool { return target(n) == target(m) }) {
			continue
		}
		if m.GetImage() == nil {
			list = append(list, bind(m))
			continue
		}
		v, ok := in.Images[i]
		if !ok {
			return nil, fmt.Errorf("mounts[%d].image: %w", i, errors.New("content is not resolved"))
		}
		im, err := in.imageMount(m, v)
		if err != nil {
			return nil, fmt.Errorf("mounts[%d].image: %w", i, err)
		}
		list = append(list, im)
	}
	return list, nil
}

func bind(m *rt.Mount) specs.Mount {
	opts := []string{"rbind"}
	switch m.GetPropagation() {
	case rt.MountPropagation_PROPAGATION_BIDIRECTIONAL:
		opts = append(opts, "rshared")
	case rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
		opts = append(opts, "rslave")
	default:
		opts = append(opts, "rprivate")
	}
	switch {
	case m.GetRecursiveReadOnly():
		opts = append(opts, "rro")
	case m.GetReadonly():
		opts = append(opts, "ro")
	default:
		opts = append(opts, "rw")
	}
	return specs.Mount{
		Destination: target(m),
		Type:        "bind",
		Source:      m.GetHostPath(),
		Options:     append(opts, m.GetMountOptions()...),
		UIDMappings: idMappings(m.GetUidMappings()),
		GIDMappings: idMappings(m.GetGidMappings()),
	}
}

// imageMount is read-only: an overlay of layers without an upper one, or a bind
// of the only layer or file, since an overlay wants two directories.
func (in *Input) imageMount(m *rt.Mount, v ImageVolume) (specs.Mount, error) {
	mount := specs.Mount{
		Destination: target(m),
		UIDMappings: idMappings(m.GetUidMappings()),
		GIDMappings: idMappings(m.GetGidMappings()),
	}
	extra := append([]string{"ro", "nosuid", "nodev"}, m.GetMountOptions()...)
	switch {
	case v.File != "":
		mount.Type, mount.Source = "bind", v.File
	case v.Dir != "":
		mount.Type, mount.Source = "bind", v.Dir
		mount.UIDMappings, mount.GIDMappings = nil, nil
	case len(v.Layers) == 1:
		mount.Type, mount.Source = "bind", v.Layers[0]
	case len(v.Layers) == 0:
		return mount, errors.New("neither layers nor a file")
	default:
		mount.Type, mount.Source = "overlay", "overlay"
		mount.Options = append(in.Paths.lowerOptions(v.Layers), extra...)
		return mount, nil
	}
	mount.Options = append([]string{"bind", "rprivate"}, extra...)
	return mount, nil
}

// lowerOptions names the layers: one by one for the native runtime, which has no
// limit on their number, else in the one option that mount(2) has always known.
func (p Paths) lowerOptions(layers []string) []string {
	if len(p.Lower) == 0 {
		esc := strings.NewReplacer(`\`, `\\`, `:`, `\:`, `,`, `\,`)
		parts := make([]string, len(layers))
		for i, l := range layers {
			parts[i] = esc.Replace(l)
		}
		return []string{"lowerdir=" + strings.Join(parts, ":")}
	}
	var opts []string
	for _, l := range layers {
		opts = append(opts, "lowerdir+="+l)
	}
	return opts
}

// rootPropagation is as strong as the strongest mount needs: mounts travel
// through the root's peer group.
func rootPropagation(ms []*rt.Mount) string {
	p := ""
	for _, m := range ms {
		switch m.GetPropagation() {
		case rt.MountPropagation_PROPAGATION_BIDIRECTIONAL:
			return "rshared"
		case rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER:
			p = "rslave"
		}
	}
	return p
}

func checkMount(m *rt.Mount) error {
	switch {
	case m.GetContainerPath() == "":
		return invalid("container_path", "is empty")
	case target(m) == "/":
		return invalid("container_path", "%q is the root", m.GetContainerPath())
	case (len(m.GetUidMappings()) == 0) != (len(m.GetGidMappings()) == 0):
		return invalid("uidMappings", "uidMappings and gidMappings go together")
	}
	if p := m.GetPropagation(); p < rt.MountPropagation_PROPAGATION_PRIVATE || p > rt.MountPropagation_PROPAGATION_BIDIRECTIONAL {
		return invalid("propagation", "unknown propagation %d", p)
	}
	for _, id := range slices.Concat(m.GetUidMappings(), m.GetGidMappings()) {
		if err := checkMapping("uidMappings", id); err != nil {
			return err
		}
	}
	for _, o := range m.GetMountOptions() {
		if o != "noexec" && o != "nodev" && o != "nosuid" {
			return invalid("mount_options", "unknown option %q", o)
		}
	}
	return first(checkNUL("container_path", m.GetContainerPath()), checkReadOnly(m), checkSource(m))
}

func checkReadOnly(m *rt.Mount) error {
	switch {
	case !m.GetRecursiveReadOnly():
		return nil
	case !m.GetReadonly():
		return invalid("recursive_read_only", "needs readonly")
	case m.GetPropagation() != rt.MountPropagation_PROPAGATION_PRIVATE:
		return invalid("recursive_read_only", "needs propagation PRIVATE")
	}
	return nil
}

// checkSource: a host path or an image, not both; image_sub_path says nothing
// without an image, as kubelet also fills it for other volumes.
func checkSource(m *rt.Mount) error {
	if m.GetImage() == nil {
		if m.GetHostPath() == "" {
			return invalid("host_path", "neither host_path nor image is set")
		}
		if !strings.HasPrefix(m.GetHostPath(), "/") {
			return invalid("host_path", "%q is not absolute", m.GetHostPath())
		}
		return checkNUL("host_path", m.GetHostPath())
	}
	switch {
	case m.GetHostPath() != "":
		return invalid("host_path", "image is set too")
	case m.GetImage().GetImage() == "":
		return invalid("image.image", "is empty")
	case strings.HasPrefix(m.GetImageSubPath(), "/"):
		return invalid("image_sub_path", "%q is absolute", m.GetImageSubPath())
	}
	return first(checkSteps("image_sub_path", m.GetImageSubPath()), checkNUL("image_sub_path", m.GetImageSubPath()))
}
