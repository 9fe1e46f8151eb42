package handler

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/ns"
)

// Roots is the directory below which foreign runtimes' mounts are made, each in the mount namespace of one run:
//
//	<roots>/<pod>/<ctr>/root     the container's root file system       (root.path of the specification)
//	<roots>/<pod>/<ctr>/shm      the pod's /dev/shm                     (source of a bind)
//	<roots>/<pod>/<ctr>/<n>      an image volume of several layers      (source of a bind)
//
// It is a mount, a private one, so that these mounts stay where they are made while every other mount of the host remains as
// shared as it is: volumes that propagate to the host need that. It is the only mount Berth has on a host for containers, and is
// there only where a foreign handler is configured.
type Roots string

// Open makes the directory a private mount, once per boot.
func (r Roots) Open() error {
	dir := string(r)
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

// Close takes the mount away when nobody is left to use it. Containers have copies of their own.
func (r Roots) Close() {
	if err := unix.Unmount(string(r), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err == nil || errors.Is(err, unix.EINVAL) {
		os.Remove(string(r)) // not empty where pods were removed by hand
	}
}

// Remove removes the mount points of a pod, or of one of its containers. Idempotent.
func (r Roots) Remove(pod string, container ...string) error {
	return removeEmpty(filepath.Join(append([]string{string(r), pod}, container...)...))
}

// Stage gives a container its place.
func (r Roots) Stage(pod, container string) *Stage {
	return &Stage{dir: filepath.Join(string(r), pod, container)}
}

// Stage is what is mounted for a foreign runtime before it makes a container.
type Stage struct {
	dir    string
	mounts ns.Mounts
}

// Root is where the container's root file system will be.
func (s *Stage) Root() string { return filepath.Join(s.dir, "root") }

// Shm is where the pod's shared memory will be.
func (s *Stage) Shm() string { return filepath.Join(s.dir, "shm") }

// Merged is where the content of image volume n will be.
func (s *Stage) Merged(n int) string { return filepath.Join(s.dir, strconv.Itoa(n)) }

// Overlay mounts layers, top first, on target; with upper and work, if any, to write to. They are id-mapped for the user
// namespace at path userNS unless that is empty.
func (s *Stage) Overlay(target string, layers []string, upper, work, userNS string) {
	o := ns.Overlay{Target: target, UserNS: userNS}
	for _, l := range layers {
		o.Options = append(o.Options, "lowerdir+="+l)
	}
	if upper != "" {
		o.Options = append(o.Options, "volatile", "upperdir="+upper, "workdir="+work)
	}
	s.mounts.Overlays = append(s.mounts.Overlays, o)
}

// Bind mounts what is behind descriptor fd of the runtime's program on target.
func (s *Stage) Bind(fd int, target string) {
	s.mounts.Binds = append(s.mounts.Binds, ns.Bind{FD: fd, Target: target})
}

// Clone has the program, and Bind, get a detached clone of what is at the root of the mount namespace behind descriptor fd
// in its place.
func (s *Stage) Clone(fd int) { s.mounts.Clones = append(s.mounts.Clones, fd) }

// Wrap makes the mount points and the program that mounts and then is argv.
func (s *Stage) Wrap(argv, env []string) (ns.Child, error) {
	var targets []string
	for _, o := range s.mounts.Overlays {
		targets = append(targets, o.Target)
	}
	for _, b := range s.mounts.Binds {
		targets = append(targets, b.Target)
	}
	// Everybody on the way has to be able to pass: a container's root may belong to a user namespace.
	for _, t := range targets {
		if err := os.MkdirAll(t, 0o711); err != nil {
			return ns.Child{}, err
		}
	}
	return ns.WithMounts(s.mounts, argv, env), nil
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
