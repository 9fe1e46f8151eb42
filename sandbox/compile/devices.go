package compile

import (
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Device is a device node of the host. Path is where the container sees it: for
// a requested device its container_path (or host_path, without one), for those of
// a requested directory the same place below that path.
type Device struct {
	Path         string
	Type         string // "c" or "b"
	Major, Minor int64
	Mode         fs.FileMode // permission bits
	UID, GID     uint32
}

// devices lists the nodes to make beyond those every container has, and the
// rules of the device cgroup.
func (in *Input) devices() ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	nodes, rules, err := in.requestedDevices()
	if err != nil {
		return nil, nil, err
	}
	if in.privileged() && !in.Options.NoHostDevices {
		rules = []specs.LinuxDeviceCgroup{{Allow: true, Type: "a", Access: "rwm"}}
		nodes = in.hostDevices(nodes)
	} else {
		rules = append(defaultRules(in.Options.Tun), rules...)
	}
	if in.Options.Tun && !slices.ContainsFunc(nodes, func(n specs.LinuxDevice) bool { return n.Path == tunPath }) {
		nodes = append(nodes, node(Device{Type: "c", Major: 10, Minor: 200, Mode: 0o666}, tunPath))
	}
	if in.mounted("/dev") {
		nodes = nil // the container brings its own /dev, which must not be written to
	}
	return nodes, rules, nil
}

const tunPath = "/dev/net/tun"

func node(d Device, at string) specs.LinuxDevice {
	mode := d.Mode.Perm()
	return specs.LinuxDevice{Path: at, Type: d.Type, Major: d.Major, Minor: d.Minor, FileMode: &mode, UID: &d.UID, GID: &d.GID}
}

func rule(kind string, major, minor int64, access string) specs.LinuxDeviceCgroup {
	r := specs.LinuxDeviceCgroup{Allow: true, Type: kind, Access: access}
	if major >= 0 {
		r.Major = &major
	}
	if minor >= 0 {
		r.Minor = &minor
	}
	return r
}

// defaultRules deny everything but making nodes and the use of the usual ones.
func defaultRules(tun bool) []specs.LinuxDeviceCgroup {
	rules := []specs.LinuxDeviceCgroup{
		{Allow: false, Type: "a", Access: "rwm"},
		rule("c", -1, -1, "m"),
		rule("b", -1, -1, "m"),
		rule("c", 1, 3, "rwm"),    // null
		rule("c", 1, 5, "rwm"),    // zero
		rule("c", 1, 7, "rwm"),    // full
		rule("c", 1, 8, "rwm"),    // random
		rule("c", 1, 9, "rwm"),    // urandom
		rule("c", 5, 0, "rwm"),    // tty
		rule("c", 5, 1, "rwm"),    // console
		rule("c", 5, 2, "rwm"),    // ptmx
		rule("c", 136, -1, "rwm"), // pts
	}
	if tun {
		rules = append(rules, rule("c", 10, 200, "rwm"))
	}
	return rules
}

// requestedDevices gives what was found for each requested device its rule.
func (in *Input) requestedDevices() ([]specs.LinuxDevice, []specs.LinuxDeviceCgroup, error) {
	var nodes []specs.LinuxDevice
	var rules []specs.LinuxDeviceCgroup
	for i, d := range in.Container.GetDevices() {
		if i >= len(in.Devices) || len(in.Devices[i]) == 0 {
			return nil, nil, invalid(fmt.Sprintf("devices[%d].host_path", i), "%s is not a device nor a directory with devices", d.GetHostPath())
		}
		at := containerPath(d)
		for _, f := range in.Devices[i] {
			p := path.Clean(f.Path)
			if !under(at, p) {
				return nil, nil, fmt.Errorf("device %s does not lie below %s", f.Path, at)
			}
			if in.Options.DeviceOwner {
				f.UID, f.GID = in.User.UID, in.User.GID
			}
			nodes = put(nodes, node(f, p))
			rules = append(rules, rule(f.Type, f.Major, f.Minor, access(d.GetPermissions())))
		}
	}
	return nodes, rules, nil
}

func containerPath(d *rt.Device) string {
	if p := d.GetContainerPath(); p != "" {
		return path.Clean(p)
	}
	return path.Clean(d.GetHostPath())
}

// access orders permissions as the kernel prints them; none are all.
func access(perms string) string {
	if perms == "" {
		return "rwm"
	}
	var b strings.Builder
	for _, p := range "rwm" {
		if strings.ContainsRune(perms, p) {
			b.WriteRune(p)
		}
	}
	return b.String()
}

// put adds a node; a later one at the same path replaces an earlier one.
func put(nodes []specs.LinuxDevice, n specs.LinuxDevice) []specs.LinuxDevice {
	for i := range nodes {
		if nodes[i].Path == n.Path {
			nodes[i] = n
			return nodes
		}
	}
	return append(nodes, n)
}

// hostDevices puts the host's nodes before the requested ones, except where a
// requested one takes the place and what the runtime program makes by itself.
func (in *Input) hostDevices(requested []specs.LinuxDevice) []specs.LinuxDevice {
	var nodes []specs.LinuxDevice
	for _, d := range in.Host.Devices {
		if madeByRuntime(d.Path) {
			continue
		}
		if !slices.ContainsFunc(requested, func(n specs.LinuxDevice) bool { return n.Path == d.Path }) {
			nodes = put(nodes, node(d, d.Path))
		}
	}
	return append(nodes, requested...)
}

func madeByRuntime(p string) bool {
	switch p {
	case "/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom", "/dev/tty", "/dev/console", "/dev/ptmx":
		return true
	}
	for _, dir := range []string{"/dev/pts/", "/dev/shm/", "/dev/mqueue/", "/dev/fd/", "/dev/.udev/", "/dev/.lxc/", "/dev/.lxd-mounts/"} {
		if strings.HasPrefix(p, dir) {
			return true
		}
	}
	return false
}

func checkDevice(d *rt.Device) error {
	if err := checkPath("host_path", d.GetHostPath()); err != nil {
		return err
	}
	if p := d.GetContainerPath(); p != "" {
		if err := checkPath("container_path", p); err != nil {
			return err
		}
	}
	if p := d.GetPermissions(); strings.Trim(p, "rwm") != "" {
		return invalid("permissions", "%q is not made of r, w and m", p)
	}
	return nil
}
