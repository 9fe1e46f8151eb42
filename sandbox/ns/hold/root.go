package hold

import (
	"runtime"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// NameRoot is Argv[0] of a program that is to be run with mounts that nobody else sees; the program's own arguments follow.
const NameRoot = "berth-monitor: root"

// Mounts are what NameRoot makes, in a mount namespace that was made for it: the clones, the overlays, then the binds.
type Mounts struct {
	// Clones are inherited descriptors of mount namespaces. The program, and Binds, get in the place of each a detached clone of
	// what is mounted at its root. They need no mount namespace of the program's own.
	Clones   []int
	Overlays []Overlay
	Binds    []Bind
}

// Overlay is a stack of directories mounted on a directory.
type Overlay struct {
	// Target is the directory to mount on.
	Target string
	// Options are overlayfs's, in order: "lowerdir+=DIR" from the top down, "upperdir=DIR", "workdir=DIR", "volatile", …
	Options []string
	// UserNS is the path of a user namespace: the layers below are id-mapped for it. "": as they are.
	UserNS string
}

// Bind puts the tree behind an inherited descriptor, which may be mounted nowhere, on a directory. The program does not get the
// descriptor.
type Bind struct {
	FD     int
	Target string
}

// Mounts travel in the environment, "BERTH_MOUNT_n=verb argument" in order.
const (
	keyMount    = "BERTH_MOUNT_"
	verbOverlay = "overlay"
	verbOption  = "option"
	verbUserNS  = "userns"
	verbBind    = "bind"
	verbClone   = "clone"
)

// Env is the form of m in which it travels.
func (m Mounts) Env() []string {
	var env []string
	add := func(verb, arg string) {
		env = append(env, keyMount+strconv.Itoa(len(env))+"="+verb+" "+arg)
	}
	for _, fd := range m.Clones {
		add(verbClone, strconv.Itoa(fd))
	}
	for _, o := range m.Overlays {
		add(verbOverlay, o.Target)
		for _, opt := range o.Options {
			add(verbOption, opt)
		}
		if o.UserNS != "" {
			add(verbUserNS, o.UserNS)
		}
	}
	for _, b := range m.Binds {
		add(verbBind, strconv.Itoa(b.FD)+" "+b.Target)
	}
	return env
}

// ParseMounts is the inverse of Env. rest is the environment without what was m's. An entry that is not understood is an error:
// a program without one of its mounts must not run.
func ParseMounts(env []string) (m Mounts, rest []string, err error) {
	for _, e := range env {
		if !prefixed(e, keyMount) {
			rest = append(rest, e)
			continue
		}
		_, entry := cut(e)
		verb, arg := split(entry)
		last := len(m.Overlays) - 1
		switch {
		case verb == verbOverlay:
			m.Overlays = append(m.Overlays, Overlay{Target: arg})
		case verb == verbOption && last >= 0:
			m.Overlays[last].Options = append(m.Overlays[last].Options, arg)
		case verb == verbUserNS && last >= 0:
			m.Overlays[last].UserNS = arg
		case verb == verbBind:
			text, target := split(arg)
			fd, err := strconv.Atoi(text)
			if err != nil {
				return m, nil, &segment{e, syscall.EINVAL}
			}
			m.Binds = append(m.Binds, Bind{FD: fd, Target: target})
		case verb == verbClone:
			fd, err := strconv.Atoi(arg)
			if err != nil {
				return m, nil, &segment{e, syscall.EINVAL}
			}
			m.Clones = append(m.Clones, fd)
		default:
			return m, nil, &segment{e, syscall.EINVAL}
		}
	}
	return m, rest, nil
}

// split divides at the first space.
func split(s string) (string, string) {
	for i := range len(s) {
		if s[i] == ' ' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// rootMain makes the mounts and becomes the program.
func rootMain(argv []string) int {
	runtime.LockOSThread() // for cloneRoot
	m, env, err := ParseMounts(syscall.Environ())
	if err == nil {
		err = m.mount()
	}
	if err == nil {
		err = &segment{"exec " + argv[0], syscall.Exec(argv[0], argv, env)}
	}
	syscall.Write(2, []byte(err.Error()+"\n"))
	return 1
}

func (m Mounts) mount() error {
	for _, fd := range m.Clones {
		if err := cloneRoot(fd); err != nil {
			return &segment{"clone descriptor " + strconv.Itoa(fd), err}
		}
	}
	for _, o := range m.Overlays {
		if err := o.mount(); err != nil {
			return &segment{"mount overlay on " + o.Target, err}
		}
	}
	for _, b := range m.Binds {
		if err := b.mount(); err != nil {
			return &segment{"mount descriptor " + strconv.Itoa(b.FD) + " on " + b.Target, err}
		}
	}
	return nil
}

// seclude keeps what is mounted on target from being seen elsewhere: the mount that target lies on still gets what the host
// mounts there later, and gives nothing back. All other mounts stay as shared as they were: a volume whose mounts are to
// reach the host (MountPropagation Bidirectional) has to remain the host's peer. Nothing happens where the mount is private.
func seclude(target string) error {
	for at := target; ; at = parent(at) {
		var st unix.Statx_t
		if err := unix.Statx(unix.AT_FDCWD, at, 0, 0, &st); err != nil {
			return err
		}
		if st.Attributes_mask&unix.STATX_ATTR_MOUNT_ROOT == 0 { // before Linux 5.8: seclude everything
			return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
		if st.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
			return unix.Mount("", at, "", unix.MS_SLAVE, "")
		}
		if at == "/" { // the root of a chroot(2) that is no mount
			return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, "")
		}
	}
}

func parent(path string) string {
	for i := len(path) - 1; i > 0; i-- {
		if path[i] == '/' {
			return path[:i]
		}
	}
	return "/"
}

// mount puts the detached tree, or a clone of a tree that is mounted, on the target. A detached tree can be cloned since Linux
// 6.15; before, it can be attached once.
func (b Bind) mount() error {
	if err := seclude(b.Target); err != nil {
		return err
	}
	defer unix.Close(b.FD)
	fd, err := unix.OpenTree(b.FD, "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err == unix.EINVAL {
		return attach(b.FD, b.Target)
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return attach(fd, b.Target)
}

func attach(fd int, target string) error {
	return unix.MoveMount(fd, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

func (o Overlay) mount() error {
	err := seclude(o.Target)
	if err == nil && o.UserNS != "" {
		o, err = o.mapped()
	}
	if err != nil {
		return err
	}
	err = o.byDescriptor()
	if err == unix.EINVAL || err == unix.ENOSYS {
		err = o.byString()
	}
	return err
}

// mapped gives each lower layer an id-mapped clone, mounted on a memory file system that lies on the target and that the
// overlay covers in the end. (By descriptor overlayfs takes layers since Linux 6.13, from mounted directories since it takes
// id-mapped ones, 5.19.)
func (o Overlay) mapped() (Overlay, error) {
	ns, err := unix.Open(o.UserNS, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return o, &segment{o.UserNS, err}
	}
	defer unix.Close(ns)
	if err := unix.Mount("layers", o.Target, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV|unix.MS_NOEXEC, "mode=0700"); err != nil {
		return o, &segment{"mount tmpfs", err}
	}
	out := Overlay{Target: o.Target}
	for i, opt := range o.Options {
		key, dir := cut(opt)
		if key == "lowerdir+" {
			at := o.Target + "/" + strconv.Itoa(i)
			if err := cloneMapped(dir, at, ns); err != nil {
				return o, &segment{"id-map " + dir, err}
			}
			opt = key + "=" + at
		}
		out.Options = append(out.Options, opt)
	}
	return out, nil
}

func cloneMapped(dir, at string, ns int) error {
	fd, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	a := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(ns), Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &a); err != nil {
		return err
	}
	if err := unix.Mkdir(at, 0o700); err != nil {
		return err
	}
	return attach(fd, at)
}

// byDescriptor mounts with fsopen(2), where each layer is an option of its own (Linux 6.7): as many as there are.
func (o Overlay) byDescriptor() error {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return err
	}
	defer unix.Close(fs)
	for _, opt := range o.Options {
		key, value := cut(opt)
		if value == "" {
			err = unix.FsconfigSetFlag(fs, key)
		} else {
			err = unix.FsconfigSetString(fs, key, value)
		}
		if err != nil {
			return err
		}
	}
	if err = unix.FsconfigCreate(fs); err != nil {
		return err
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.MoveMount(fd, "", unix.AT_FDCWD, o.Target, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// byString mounts with mount(2), whose options have to fit into a page.
func (o Overlay) byString() error {
	lower, rest := "", ""
	for _, opt := range o.Options {
		if key, value := cut(opt); key == "lowerdir+" {
			if lower != "" {
				lower += ":"
			}
			lower += escape(value, ":\\,")
		} else if value != "" {
			rest += "," + key + "=" + escape(value, "\\,")
		} else {
			rest += "," + opt
		}
	}
	data := "lowerdir=" + lower + rest
	if len(data) >= 4096 {
		return unix.E2BIG
	}
	return unix.Mount("overlay", o.Target, "overlay", 0, data)
}

// escape puts a backslash before what means something to overlayfs.
func escape(s, special string) string {
	out := make([]byte, 0, len(s))
	for i := range len(s) {
		for j := range len(special) {
			if s[i] == special[j] {
				out = append(out, '\\')
			}
		}
		out = append(out, s[i])
	}
	return string(out)
}
