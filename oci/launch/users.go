package launch

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/plan"
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

// Without root, a runtime may do what containers need only in a user namespace: clone mounts, make file systems,
// enter namespaces. So a command of an unprivileged user runs itself again in the container's user namespace, with a
// mount namespace below it, and is root there:
//
//	berth-oci create (uid 1000) ──> makes the config's user namespace, writes its maps ──> berth-oci create (uid 0 in it)
//	berth-oci exec   (uid 1000) ──> joins the container's                              ──> berth-oci exec   (uid 0 in it)
//
// The second one finds the user namespace made and takes it for the container's. What the kernel refuses it even there
// are cgroups, which then are left out unless the config sets resources, and nodes of devices, which are bound.

// initialUser is the inode of the first user namespace (PROC_USER_INIT_INO, linux/proc_ns.h).
const initialUser = 0xEFFFFFFD

// Nested tells whether this process is in a user namespace other than the first.
func Nested() bool {
	var st unix.Stat_t
	return unix.Stat("/proc/self/ns/user", &st) == nil && st.Ino != initialUser
}

// Unprivileged tells whether a command has to run itself in a user namespace.
func Unprivileged() bool { return os.Geteuid() != 0 }

// AgainForBundle runs a program, which is this one, in a new user namespace with the maps of a bundle's config.
func (r *Runtime) AgainForBundle(bundle string, argv []string) (*os.Process, error) {
	text, err := os.ReadFile(bundle + "/config.json")
	if err != nil {
		return nil, err
	}
	config, err := plan.Parse(text)
	if err != nil {
		return nil, err
	}
	spaces, err := config.Spaces()
	if err != nil {
		return nil, err
	}
	if spaces.New&unix.CLONE_NEWUSER == 0 {
		return nil, fmt.Errorf("config.json: linux.namespaces: without root a container needs a new user namespace: %w", fs.ErrPermission)
	}
	return r.again(&spawn.Request{NewUser: true, Maps: func(pid int) error { return writeMaps(pid, spaces.UIDs, spaces.GIDs) }}, argv)
}

// Again runs a program, which is this one, in the user namespace of the container.
func (c *Container) Again(argv []string) (*os.Process, error) {
	if !c.State.Alive() {
		return nil, &refusal{c.State.ID, textNotRunning, fs.ErrInvalid}
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(c.State.Pid) + "/ns/user")
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	return c.rt.again(&spawn.Request{User: ns}, argv)
}

func (r *Runtime) again(req *spawn.Request, argv []string) (*os.Process, error) {
	exe, err := r.openExe(true)
	if err != nil {
		return nil, err
	}
	defer exe.Close()
	req.Exe, req.Argv, req.Env, req.New = exe, argv, os.Environ(), unix.CLONE_NEWNS
	p, err := spawn.Start(req)
	if err != nil {
		return nil, err
	}
	if err := p.Await(); err != nil {
		return nil, err
	}
	return os.FindProcess(p.Pid)
}

// shadow writes id maps with the programs that may: they are set-user-ID and know which subordinate ids the user has
// (subuid(5), Debian package uidmap).
func shadow(program string, pid int, maps []specs.LinuxIDMapping) error {
	args := []string{strconv.Itoa(pid)}
	for _, m := range maps {
		for _, n := range [...]uint32{m.ContainerID, m.HostID, m.Size} {
			args = append(args, strconv.FormatUint(uint64(n), 10))
		}
	}
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, bytes.TrimSpace(out))
	}
	return nil
}

// single tells whether maps are what the kernel lets a user without privileges write: the own id alone
// (user_namespaces(7)).
func single(maps []specs.LinuxIDMapping, id int) bool {
	return len(maps) == 1 && maps[0].Size == 1 && maps[0].HostID == uint32(id)
}
