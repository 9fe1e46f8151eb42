package launch

import (
	"errors"
	"fmt"
	"runtime"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/plan"
)

// overlay makes the root file system, attached nowhere. The first try ends in EINVAL on kernels where overlayfs doesn't know
// "lowerdir+" (before Linux 6.7; it comes when the file system is made, before 6.5). Where it takes no descriptors, which id-mapped
// layers come by, that is EBADF (before 6.13) or EOPNOTSUPP (before 6.5).
func (o *opened) overlay(s *plan.Source) (int, error) {
	fd, err := o.stack(s)
	if !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EBADF) && !errors.Is(err, unix.EOPNOTSUPP) {
		return fd, err
	}
	if fd, e := o.byPath(s); e == nil {
		return fd, nil
	} else if !errors.Is(e, errors.ErrUnsupported) {
		err = fmt.Errorf("%w; by path: %w", err, e)
	}
	return -1, err
}

// stack makes it of its layers one by one.
func (o *opened) stack(s *plan.Source) (int, error) {
	ctx, err := unix.Fsopen(s.Type, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("fsopen %s: %w", s.Type, err)
	}
	defer unix.Close(ctx)
	if s.Path != "" {
		if err := unix.FsconfigSetString(ctx, "source", s.Path); err != nil {
			return -1, fmt.Errorf("overlay source: %w", err)
		}
	}
	for _, opt := range s.Options {
		if err := o.layer(ctx, opt, s); err != nil {
			return -1, fmt.Errorf("overlay option %q: %w%s", opt, err, said(ctx))
		}
	}
	if err := unix.FsconfigCreate(ctx); err != nil {
		return -1, fmt.Errorf("overlay: %w%s", err, said(ctx))
	}
	fd, err := unix.Fsmount(ctx, unix.FSMOUNT_CLOEXEC, int(s.Set))
	if err != nil {
		return -1, fmt.Errorf("overlay: fsmount: %w%s", err, said(ctx))
	}
	return fd, nil
}

// layer sets one option. With id mappings the lower layers are id-mapped clones, handed over by descriptor (Linux 6.13).
func (o *opened) layer(ctx int, opt string, s *plan.Source) error {
	key, value, has := strings.Cut(opt, "=")
	if !has {
		return unix.FsconfigSetFlag(ctx, key)
	}
	switch key {
	case "lowerdir+", "datadir+", "upperdir", "workdir":
	default:
		return unix.FsconfigSetString(ctx, key, value)
	}
	if len(s.UIDs) == 0 {
		return unix.FsconfigSetString(ctx, key, value)
	}
	if key == "upperdir" {
		if err := ownUpper(value, s); err != nil {
			return err
		}
	}
	if key == "upperdir" || key == "workdir" {
		return unix.FsconfigSetString(ctx, key, value)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, value, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	o.layers = append(o.layers, fd) // the tree is dissolved when this is closed: not before the overlay is made
	if err := o.idmap(fd, &plan.Source{UIDs: s.UIDs, GIDs: s.GIDs}); err != nil {
		return err
	}
	return unix.FsconfigSetFd(ctx, key, fd)
}

// byPath makes the overlay with mount(2), which takes a page of options where fsconfig(2) takes 256 bytes a piece: the lower layers are
// named by descriptors, to be short. It is mounted, and cloned, in a mount namespace which goes with the thread that made it. There
// id-mapped clones of layers are attached too, since overlayfs takes mounts of the caller's mount namespace only; it keeps clones of its own.
func (o *opened) byPath(s *plan.Source) (int, error) {
	var lower, rest []string
	for _, opt := range s.Options {
		key, dir, _ := strings.Cut(opt, "=")
		switch key {
		case "lowerdir+":
			lower = append(lower, dir)
		case "datadir+", "lowerdir": // the first has no such form, the second has it
			return -1, errors.ErrUnsupported
		case "upperdir":
			if len(s.UIDs) > 0 {
				if err := ownUpper(dir, s); err != nil {
					return -1, err
				}
			}
			fallthrough
		default:
			rest = append(rest, strings.NewReplacer(`\`, `\\`, ",", `\,`).Replace(opt))
		}
	}
	if len(lower) == 0 {
		return -1, errors.ErrUnsupported
	}
	var fd int
	var err error
	aside(func() { fd, err = o.inPlace(s, lower, rest) })
	return fd, err
}

// inPlace is byPath on a thread of its own. The overlay covers its first layer.
func (o *opened) inPlace(s *plan.Source, lower, rest []string) (int, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return -1, fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return -1, fmt.Errorf("make / private: %w", err)
	}
	if len(s.UIDs) > 0 {
		if err := o.mapLayers(s, lower); err != nil {
			return -1, err
		}
	}
	var names []string
	for _, dir := range lower {
		fd, err := unix.Open(dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("layer %s: %w", dir, err)
		}
		defer unix.Close(fd)
		names = append(names, "/proc/self/fd/"+strconv.Itoa(fd))
	}
	data := strings.Join(append([]string{"lowerdir=" + strings.Join(names, ":")}, rest...), ",")
	if len(data) >= unix.Getpagesize() {
		return -1, fmt.Errorf("%d layers: %w", len(lower), unix.E2BIG)
	}
	if err := unix.Mount(s.Path, lower[0], s.Type, 0, data); err != nil {
		return -1, fmt.Errorf("mount overlay: %w", err)
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, lower[0], unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return -1, fmt.Errorf("overlay: open_tree: %w", err)
	}
	if s.Set != 0 {
		if err := setattr(fd, false, attr(s.Set, 0)); err != nil {
			unix.Close(fd)
			return -1, fmt.Errorf("overlay: attributes: %w", err)
		}
	}
	return fd, nil
}

// mapLayers attaches an id-mapped clone of each directory on it.
func (o *opened) mapLayers(s *plan.Source, dirs []string) error {
	for _, dir := range dirs {
		fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
		if err == nil {
			err = o.idmap(fd, &plan.Source{UIDs: s.UIDs, GIDs: s.GIDs})
			if err == nil {
				err = unix.MoveMount(fd, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
			}
			unix.Close(fd)
		}
		if err != nil {
			return fmt.Errorf("id-map layer %s: %w", dir, err)
		}
	}
	return nil
}

// aside runs f on a thread that is thrown away afterwards, for what can't be taken back.
func aside(f func()) {
	done := make(chan struct{})
	run := func() {
		defer close(done)
		f()
	}
	// ends with f. It never unlocks its thread, so the runtime throws that away; but for the first one, which can't end and is kept
	// here while another goroutine gets another thread.
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			run()
			return
		}
		// ends with f
		go func() {
			runtime.LockOSThread()
			run()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
	<-done
}

// ownUpper gives the upper directory, which is what the container sees as its root, the owner that stands for its own
// in the container. Upper and work directory are not id-mapped: overlayfs works in them with the ids of the host's root
// and creates files with the mapped ids of their makers.
func ownUpper(dir string, s *plan.Source) error {
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	uid, gid := hostID(s.UIDs, st.Uid), hostID(s.GIDs, st.Gid)
	if uid == st.Uid && gid == st.Gid {
		return nil
	}
	return unix.Fchown(fd, int(uid), int(gid))
}

// hostID maps an id of the container; one that is the host's side of the mapping already stays.
func hostID(maps []specs.LinuxIDMapping, id uint32) uint32 {
	for _, m := range maps {
		if id >= m.HostID && id-m.HostID < m.Size {
			return id
		}
	}
	for _, m := range maps {
		if id >= m.ContainerID && id-m.ContainerID < m.Size {
			return m.HostID + (id - m.ContainerID)
		}
	}
	return id
}

// said reads the message log of a file system context.
func said(ctx int) string {
	buf := make([]byte, 512)
	n, err := unix.Read(ctx, buf)
	if err != nil || n < 3 {
		return ""
	}
	return " (" + strings.TrimSpace(string(buf[2:n])) + ")"
}
