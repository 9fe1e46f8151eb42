package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// A foreign runtime expects its root file system to be mounted. Each run of its "create" gets a mount namespace of its own, in
// which overlays and the pod's shared memory are mounted below state/roots; the container's mount namespace is a copy of that
// one, and the host never has any of it:
//
//	state/roots/<pod>/<ctr>/root     the container's root file system       (spec root.path)
//	state/roots/<pod>/<ctr>/shm      the pod's /dev/shm                     (source of a bind)
//	state/roots/<pod>/<ctr>/<n>      an image volume of several layers      (source of a bind)
//
// state/roots is a mount, a private one, so that these mounts stay where they are made while every other mount of the host
// remains as shared as it is: volumes that propagate to the host need that. It is the only mount Berth has on a host for
// containers, and is there only where a foreign handler is configured.

func (m *Manager) rootsDir() string { return filepath.Join(m.opt.State, "roots") }

// openRoots makes state/roots a private mount, once per boot.
func (m *Manager) openRoots() error {
	dir := m.rootsDir()
	if !m.runtime.foreign() {
		return nil
	}
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return err
	}
	var st unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, dir, unix.AT_SYMLINK_NOFOLLOW, 0, &st); err != nil {
		return fmt.Errorf("statx %s: %w", dir, err)
	}
	if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT == 0 {
		if err := unix.Mount(dir, dir, "", unix.MS_BIND, ""); err != nil {
			return fmt.Errorf("mount %s on itself: %w", dir, err)
		}
	}
	if err := unix.Mount("", dir, "", unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make mount %s private: %w", dir, err)
	}
	return nil
}

// closeRoots takes the mount away when no pod is left that could use it. Containers have copies of their own.
func (m *Manager) closeRoots() {
	if err := unix.Unmount(m.rootsDir(), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err == nil || errors.Is(err, unix.EINVAL) {
		os.Remove(m.rootsDir()) // not empty where an older daemon's pods were removed by hand
	}
}

func (p *Pod) rootsDir() string { return filepath.Join(p.m.rootsDir(), p.id) }

func (c *Container) rootsDir() string { return filepath.Join(c.pod.rootsDir(), c.id) }

// foreignPaths puts what is mounted for a foreign runtime in the place of what only the native one understands.
func (k *creation) foreignPaths(paths *compile.Paths) {
	dir := k.c.rootsDir()
	paths.Root, paths.Lower = filepath.Join(dir, "root"), nil
	if paths.Shm != "" {
		paths.Shm = filepath.Join(dir, "shm")
	}
}

// foreignMounts are the mounts to make before the runtime's create, and their directories.
func (k *creation) foreignMounts() (ns.Mounts, error) {
	paths, dir := k.in.Paths, k.c.rootsDir()
	user := ""
	if k.c.pod.cfg.userNS() {
		user = paths.User
	}
	root := ns.Overlay{Target: paths.Root, Options: append([]string{"volatile"}, lowers(k.img.Layers)...), UserNS: user}
	root.Options = append(root.Options, "upperdir="+paths.Upper, "workdir="+paths.Work)
	m := ns.Mounts{Overlays: []ns.Overlay{root}}
	targets := []string{paths.Root}
	for i, v := range k.in.Images {
		if v.Dir == "" {
			continue
		}
		o := ns.Overlay{Target: v.Dir, Options: lowers(v.Layers)}
		if len(k.c.cfg.GetMounts()[i].GetUidMappings()) > 0 {
			o.UserNS = user
		}
		m.Overlays = append(m.Overlays, o)
		targets = append(targets, v.Dir)
	}
	if paths.Shm == filepath.Join(dir, "shm") {
		m.Binds = append(m.Binds, ns.Bind{FD: 3, Target: paths.Shm}) // the first held descriptor, see spawn
		targets = append(targets, paths.Shm)
	}
	// Everybody on the way has to be able to pass: a container's root may belong to a user namespace.
	for _, t := range targets {
		if err := os.MkdirAll(t, 0o711); err != nil {
			return m, err
		}
	}
	return m, k.ownUpper()
}

func lowers(layers []string) []string {
	var out []string
	for _, l := range layers {
		out = append(out, "lowerdir+="+l)
	}
	return out
}

// ownUpper gives the upper directory, which the container sees as its root, the owner that stands for its own in the pod's
// user namespace. The upper directory is not id-mapped: overlayfs creates files in it with the mapped ids of their makers.
func (k *creation) ownUpper() error {
	if !k.c.pod.cfg.userNS() {
		return nil
	}
	var st unix.Stat_t
	if err := unix.Lstat(k.in.Paths.Upper, &st); err != nil {
		return fmt.Errorf("stat upper directory: %w", err)
	}
	uid, gid := k.c.pod.cfg.hostIDs(st.Uid, st.Gid)
	return os.Lchown(k.in.Paths.Upper, uid, gid)
}

// mergeImages gives each image volume of several layers the directory where they are merged for a foreign runtime.
func (k *creation) mergeImages() {
	if k.c.pod.handler.Native {
		return
	}
	for i, v := range k.in.Images {
		if v.File == "" && len(v.Layers) > 1 {
			v.Dir = filepath.Join(k.c.rootsDir(), strconv.Itoa(i))
			k.in.Images[i] = v
		}
	}
}

// wrap has the runtime's program run with the mounts.
func (k *creation) wrap(s *wire.Spawn) error {
	if k.c.pod.handler.Native {
		return nil
	}
	m, err := k.foreignMounts()
	if err != nil {
		return fmt.Errorf("prepare mounts: %w", err)
	}
	child := ns.WithMounts(m, s.Argv, s.Env)
	s.Path, s.Argv, s.Env, s.Clone = child.Path, child.Argv, child.Env, child.Clone
	return nil
}

// removeEmpty removes a tree of mount points, which is directories only. What else there is stays and is an error: it would be on
// somebody's mount.
func removeEmpty(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if !e.IsDir() {
			return fmt.Errorf("remove mount points: %s is not one", filepath.Join(dir, e.Name()))
		}
		if err := removeEmpty(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	// By rmdir(2) only: a tree that is mounted here after all can't be lost.
	if err := unix.Rmdir(dir); err != nil && err != unix.ENOENT {
		return &fs.PathError{Op: "rmdir", Path: dir, Err: err}
	}
	return nil
}
