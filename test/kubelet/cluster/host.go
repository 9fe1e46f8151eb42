package cluster

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// kubelet insists on these (pkg/kubelet/cm setupKernelTunables) and would write them. The machine's own stay as they
// are: a file with the value is mounted over each.
var tunables = map[string]string{
	"vm/overcommit_memory": "1", "vm/panic_on_oom": "0",
	"kernel/panic": "10", "kernel/panic_on_oops": "1",
	"kernel/keys/root_maxkeys": "1000000", "kernel/keys/root_maxbytes": "25000000",
}

// host makes the mount and network namespaces look like a node.
func (c *Cluster) host() error {
	if err := unix.Mount("berth-kube", c.Dir, "tmpfs", 0, "mode=755,size=4g"); err != nil {
		return fmt.Errorf("mount tmpfs on %s: %w", c.Dir, err)
	}
	for _, d := range []string{"root", "state", "certs.d", "cni", "bin", "kubelet", "plugins", "manifests", "pki", "procfs"} {
		if err := os.Mkdir(filepath.Join(c.Dir, d), 0o755); err != nil {
			return err
		}
	}
	c.Manifests = filepath.Join(c.Dir, "manifests")
	// kubelet links every log from /var/log/containers, whatever its configuration says; the logs are in /var/log/pods.
	if err := unix.Mount("berth-log", "/var/log", "tmpfs", 0, "mode=755"); err != nil {
		return err
	}
	// A pod in a user namespace may mount a procfs only where there is one that nothing covers (mount_namespaces(7)).
	if err := unix.Mount("proc", filepath.Join(c.Dir, "procfs"), "proc", 0, ""); err != nil {
		return err
	}
	for name, value := range tunables {
		// Not below c.Dir: cAdvisor knows a tmpfs by any of its mount points, and nodefs and imagefs are to be one.
		stand := filepath.Join("/var/log", strings.ReplaceAll(name, "/", "."))
		if err := os.WriteFile(stand, []byte(value+"\n"), 0o644); err != nil {
			return err
		}
		if err := unix.Mount(stand, "/proc/sys/"+name, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount over /proc/sys/%s: %w", name, err)
		}
	}
	if err := network(); err != nil {
		return err
	}
	return makeCgroups(c.cgroup)
}

// network gives the namespace one address and a default route, which leads nowhere.
func network() error {
	for _, args := range [][]string{
		{"link", "add", "node0", "type", "veth", "peer", "name", "uplink0"},
		{"address", "add", NodeIP + "/24", "dev", "node0"},
		{"link", "set", "node0", "up"},
		{"link", "set", "uplink0", "up"},
		{"route", "add", "default", "via", "172.31.77.1", "dev", "node0"},
	} {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

// hierarchies are the mounted cgroup trees: those of v1, the v2 tree beside them, or only that.
func hierarchies() ([]string, error) {
	if exists("/sys/fs/cgroup/cgroup.controllers") {
		return []string{"/sys/fs/cgroup"}, nil
	}
	return filepath.Glob("/sys/fs/cgroup/*")
}

// makeCgroups makes kubelet's root in every hierarchy: it does not make it itself.
func makeCgroups(name string) error {
	trees, err := hierarchies()
	if err != nil {
		return err
	}
	for _, h := range trees {
		dir := h + name
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		// A new cpuset of v1 has no processors and no memory: nothing could enter it (cpuset(7)).
		for _, f := range []string{"cpuset.cpus", "cpuset.mems"} {
			v, err := os.ReadFile(filepath.Join(h, f))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err == nil {
				err = os.WriteFile(filepath.Join(dir, f), v, 0o644)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// removeCgroups removes the name's groups in every hierarchy, the deepest first. One that still has processes stays,
// and the leak check tells.
func removeCgroups(name string) {
	trees, _ := hierarchies() // the pattern is a constant
	for _, h := range trees {
		var dirs []string
		filepath.WalkDir(h+name, func(path string, d fs.DirEntry, err error) error { // what can't be read stays
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		slices.Reverse(dirs)
		for _, d := range dirs {
			os.Remove(d)
		}
	}
}
