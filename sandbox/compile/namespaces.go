package compile

import (
	"errors"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Own says which namespaces a pod has of its own; the others are the host's.
type Own struct {
	Net, IPC, UTS, PID, User bool
	UIDs, GIDs               []specs.LinuxIDMapping // with User: one mapping each
}

// Namespaces reads the pod's namespace options. PID means one PID namespace for
// all containers of the pod, which needs an init of the pod's own.
func Namespaces(pod *rt.PodSandboxConfig) Own {
	o := pod.GetLinux().GetSecurityContext().GetNamespaceOptions()
	own := Own{
		Net: o.GetNetwork() != rt.NamespaceMode_NODE,
		IPC: o.GetIpc() != rt.NamespaceMode_NODE,
		PID: o.GetPid() == rt.NamespaceMode_POD,
	}
	own.UTS = own.Net
	if u := o.GetUsernsOptions(); u != nil && u.GetMode() == rt.NamespaceMode_POD {
		own.User = true
		own.UIDs, own.GIDs = idMappings(u.GetUids()), idMappings(u.GetGids())
	}
	return own
}

// PIDMode says whose PID namespace a container lives in: POD (the pod's shared
// one), CONTAINER (its own), NODE (the host's) or TARGET (that of the container
// with the returned id). Options the container does not give are the pod's.
func PIDMode(pod *rt.PodSandboxConfig, cc *rt.ContainerConfig) (rt.NamespaceMode, string) {
	podMode := pod.GetLinux().GetSecurityContext().GetNamespaceOptions().GetPid()
	o := cc.GetLinux().GetSecurityContext().GetNamespaceOptions()
	if o == nil || o.GetPid() == rt.NamespaceMode_POD {
		return podMode, ""
	}
	if o.GetPid() == rt.NamespaceMode_TARGET {
		return rt.NamespaceMode_TARGET, o.GetTargetId()
	}
	return o.GetPid(), ""
}

func idMappings(ms []*rt.IDMapping) []specs.LinuxIDMapping {
	var list []specs.LinuxIDMapping
	for _, m := range ms {
		list = append(list, specs.LinuxIDMapping{ContainerID: m.GetContainerId(), HostID: m.GetHostId(), Size: m.GetLength()})
	}
	return list
}

// namespaces lists what the container joins (with a path) and what is made for
// it (without). A namespace the pod asked for and that Paths lacks is an error:
// leaving it out would put the container into the host's.
func (in *Input) namespaces() ([]specs.LinuxNamespace, error) {
	own := Namespaces(in.Pod)
	mode, _ := PIDMode(in.Pod, in.Container)
	p := in.Paths
	needPID := mode != rt.NamespaceMode_NODE && !p.PIDNew
	ns := []specs.LinuxNamespace{{Type: specs.MountNamespace}}
	for _, w := range []struct {
		need bool
		kind specs.LinuxNamespaceType
		path string
	}{
		{own.User, specs.UserNamespace, p.User},
		{own.Net, specs.NetworkNamespace, p.Net},
		{own.IPC, specs.IPCNamespace, p.IPC},
		{own.UTS, specs.UTSNamespace, p.UTS},
		{needPID, specs.PIDNamespace, p.PID},
	} {
		if !w.need {
			continue
		}
		if w.path == "" {
			return nil, errors.New("no path for the " + string(w.kind) + " namespace of the pod")
		}
		ns = append(ns, specs.LinuxNamespace{Type: w.kind, Path: w.path})
	}
	if p.PIDNew {
		if mode == rt.NamespaceMode_NODE {
			return nil, errors.New("a new PID namespace for a container that asks for the host's")
		}
		ns = append(ns, specs.LinuxNamespace{Type: specs.PIDNamespace})
	}
	// A user namespace can mount cgroupfs only with a cgroup namespace it owns.
	if !in.privileged() || own.User {
		ns = append(ns, specs.LinuxNamespace{Type: specs.CgroupNamespace})
	}
	return ns, nil
}

// checkNamespaces refuses modes that have no meaning for a namespace.
func checkNamespaces(o *rt.NamespaceOption) error {
	simple := func(field string, m rt.NamespaceMode) error {
		if m != rt.NamespaceMode_POD && m != rt.NamespaceMode_NODE {
			return invalid(field, "mode %s is neither POD nor NODE", m)
		}
		return nil
	}
	if err := first(simple("network", o.GetNetwork()), simple("ipc", o.GetIpc())); err != nil {
		return err
	}
	if m := o.GetPid(); m < rt.NamespaceMode_POD || m > rt.NamespaceMode_TARGET {
		return invalid("pid", "unknown mode %d", m)
	}
	if o.GetPid() == rt.NamespaceMode_TARGET && o.GetTargetId() == "" {
		return invalid("target_id", "is empty, and pid is TARGET")
	}
	return first(checkName("target_id", o.GetTargetId()), within("userns_options", checkUserns(o.GetUsernsOptions())))
}

// checkUserns: mode NODE without mappings, or mode POD with exactly one mapping
// of uids and one of gids that begin at 0.
func checkUserns(u *rt.UserNamespace) error {
	switch {
	case u == nil:
		return nil
	case u.GetMode() == rt.NamespaceMode_NODE:
		if len(u.GetUids())+len(u.GetGids()) > 0 {
			return invalid("mode", "NODE has no mappings")
		}
		return nil
	case u.GetMode() != rt.NamespaceMode_POD:
		return invalid("mode", "mode %s is neither POD nor NODE", u.GetMode())
	}
	return first(checkIDMap("uids", u.GetUids()), checkIDMap("gids", u.GetGids()))
}

func checkIDMap(field string, ms []*rt.IDMapping) error {
	if len(ms) != 1 {
		return invalid(field, "%d mappings, need exactly one", len(ms))
	}
	if ms[0].GetContainerId() != 0 {
		return invalid(field, "id 0 of the container is not mapped")
	}
	return checkMapping(field, ms[0])
}

func checkMapping(field string, m *rt.IDMapping) error {
	n := uint64(m.GetLength())
	if n == 0 {
		return invalid(field, "length is 0")
	}
	if uint64(m.GetHostId())+n > 1<<32-1 || uint64(m.GetContainerId())+n > 1<<32-1 {
		return invalid(field, "ends beyond the range of ids")
	}
	return nil
}

// sameUserns reports whether two userns options ask for the same.
func sameUserns(a, b *rt.UserNamespace) bool {
	aPod := a != nil && a.GetMode() == rt.NamespaceMode_POD
	bPod := b != nil && b.GetMode() == rt.NamespaceMode_POD
	if !aPod || !bPod {
		return aPod == bPod
	}
	return sameMaps(a.GetUids(), b.GetUids()) && sameMaps(a.GetGids(), b.GetGids())
}

func sameMaps(a, b []*rt.IDMapping) bool {
	if len(a) != len(b) {
		return false
	}
	for i := range a {
		if a[i].GetHostId() != b[i].GetHostId() || a[i].GetContainerId() != b[i].GetContainerId() || a[i].GetLength() != b[i].GetLength() {
			return false
		}
	}
	return true
}
