package launch

import (
	"errors"
	"io/fs"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/cgroup"
)

// cgroupPath is never empty: a container without cgroup could not be killed whole.
func (c *creation) cgroupPath() string {
	switch p := c.config.Linux.CgroupsPath; {
	case p == "" && c.rt.Systemd:
		return "system.slice:berth:" + c.id
	case p == "":
		return "/" + c.id
	case !c.rt.Systemd && p[0] != '/':
		return "/" + p
	default:
		return p
	}
}

func (c *creation) driver() cgroup.Driver {
	if c.rt.Systemd {
		return cgroup.Systemd
	}
	return cgroup.Cgroupfs
}

func (c *creation) enterCgroup() error {
	var err error
	c.group, err = cgroup.CreateFor(c.st.Cgroup, c.driver(), c.config.Linux.Resources)
	if err != nil && c.withoutCgroup(err) {
		c.rt.warn("no cgroup: " + err.Error())
		c.group, c.st.Cgroup = nil, ""
		return c.dir.Write(c.st)
	}
	if err != nil {
		return err
	}
	if r := c.config.Linux.Resources; r != nil {
		limits := *r
		limits.Devices, limits.Pids = nil, nil // in deny and limit
		return c.group.Set(&limits)
	}
	return nil
}

// deny puts the device rules in force, before the init looks at anything of the image: so no device of the image's is
// opened by way of the init. The nodes that it makes itself are allowed to all (plan.resources).
func (c *creation) deny() error {
	r := c.plan.Resources
	if c.group == nil || r == nil || len(r.Devices) == 0 {
		return nil
	}
	return c.group.Set(&cgroup.Resources{Devices: r.Devices})
}

// limit applies what would be in init's way: the number of tasks.
func (c *creation) limit() error {
	r := c.plan.Resources
	if c.group == nil || r == nil || r.Pids == nil {
		return nil
	}
	return c.group.Set(&cgroup.Resources{Pids: r.Pids})
}

// withoutCgroup says whether a container may go without one: a runtime that is not the host's root may not be allowed
// to make any, and without limits to set nothing is lost but that ps, pause and exec --cgroup have nothing to work on.
func (c *creation) withoutCgroup(err error) bool {
	denied := errors.Is(err, fs.ErrPermission) || errors.Is(err, unix.EROFS)
	return denied && Nested() && !limits(c.config.Linux.Resources)
}

// limits tells whether resources ask for anything but what containers are denied by default: devices cannot be made
// in a user namespace anyway.
func limits(r *cgroup.Resources) bool {
	return r != nil && (r.Memory != nil || r.CPU != nil || r.Pids != nil || r.BlockIO != nil || len(r.HugepageLimits) > 0 || r.Network != nil ||
		len(r.Rdma) > 0 || len(r.Unified) > 0)
}

// delegate gives the container's user its cgroup, when config.json says that it shall write there.
func (c *creation) delegate() error {
	if !c.plan.Delegate || c.group == nil || Nested() {
		return nil
	}
	uid, mapped := rootUID(c.spaces.UIDs, c.config.Process.User.UID)
	if !mapped {
		return nil // of a user namespace that is joined: whose maps those are is not known here
	}
	return cgroup.Delegate(c.group, uid)
}

// rootUID is the id outside of a user namespace with these maps; without maps it is the same.
func rootUID(maps []specs.LinuxIDMapping, id uint32) (int, bool) {
	if len(maps) == 0 {
		return int(id), true
	}
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return int(m.HostID + (id - m.ContainerID)), true
		}
	}
	return 0, false
}
