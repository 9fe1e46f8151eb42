package launch

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch/spawn"
)

// mapText is the form of proc_pid_uid_map(5).
func mapText(maps []specs.LinuxIDMapping) string {
	var s strings.Builder
	for _, m := range maps {
		fmt.Fprintf(&s, "%d %d %d\n", m.ContainerID, m.HostID, m.Size)
	}
	return s.String()
}

// writeMaps gives a new user namespace its id maps, once, whole, as the kernel asks for.
func writeMaps(pid int, uids, gids []specs.LinuxIDMapping) error {
	dir := "/proc/" + strconv.Itoa(pid)
	if uid, gid := os.Geteuid(), os.Getegid(); uid != 0 {
		if !single(uids, uid) || !single(gids, gid) {
			return errors.Join(shadow("newuidmap", pid, uids), shadow("newgidmap", pid, gids))
		}
		if err := os.WriteFile(dir+"/setgroups", []byte("deny"), 0); err != nil {
			return fmt.Errorf("linux.gidMappings: %w", err)
		}
	}
	if err := os.WriteFile(dir+"/gid_map", []byte(mapText(gids)), 0); err != nil {
		return fmt.Errorf("linux.gidMappings: %w", err)
	}
	if err := os.WriteFile(dir+"/uid_map", []byte(mapText(uids)), 0); err != nil {
		return fmt.Errorf("linux.uidMappings: %w", err)
	}
	return nil
}

// errEnough ends the child that only had to make a user namespace.
var errEnough = errors.New("enough")

// userNamespace makes a user namespace with the given maps that no process is in.
func userNamespace(exe *os.File, uids, gids []specs.LinuxIDMapping) (*os.File, error) {
	var ns *os.File
	p, err := spawn.Start(&spawn.Request{Exe: exe, Argv: []string{"-"}, NewUser: true, Maps: func(pid int) error {
		if err := writeMaps(pid, uids, gids); err != nil {
			return err
		}
		f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/ns/user")
		if err != nil {
			return err
		}
		ns = f
		return errEnough
	}})
	if err != nil {
		return nil, fmt.Errorf("user namespace for id-mapped mount: %w", err)
	}
	if err := p.Await(); !errors.Is(err, errEnough) {
		return nil, fmt.Errorf("user namespace for id-mapped mount: %w", err)
	}
	return ns, nil
}
