package hold

import (
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// NameRoot is Argv[0] of a program that is to be run with an overlay mounted where nobody else sees it; the program's own
// arguments follow.
const NameRoot = "berth-monitor: root"

// Overlay is what NameRoot mounts, in a mount namespace that was made for it.
type Overlay struct {
	// Target is the directory to mount on.
	Target string
	// Options are overlayfs's, in order: "lowerdir+=DIR" from the top down, "upperdir=DIR", "workdir=DIR", "volatile", …
	Options []string
}

const (
	keyTarget = "BERTH_MOUNT="
	keyOption = "BERTH_MOUNT_" // number, "=", option
)

// Env is the form of o in which it travels.
func (o Overlay) Env() []string {
	env := []string{keyTarget + o.Target}
	for i, opt := range o.Options {
		env = append(env, keyOption+strconv.Itoa(i)+"="+opt)
	}
	return env
}

// ParseOverlay is the inverse of Env. rest is the environment without what was o's.
func ParseOverlay(env []string) (o Overlay, rest []string) {
	for _, e := range env {
		switch {
		case prefixed(e, keyTarget):
			o.Target = e[len(keyTarget):]
		case prefixed(e, keyOption):
			_, opt := cut(e)
			o.Options = append(o.Options, opt)
		default:
			rest = append(rest, e)
		}
	}
	return o, rest
}

// rootMain mounts the overlay and becomes the program.
func rootMain(argv []string) int {
	o, env := ParseOverlay(syscall.Environ())
	err := o.mount()
	if err == nil {
		err = &segment{"exec " + argv[0], syscall.Exec(argv[0], argv, env)}
	}
	syscall.Write(2, []byte(err.Error()+"\n"))
	return 1
}

// mount makes the mount namespace the process's own and mounts in it. What the host mounts later still comes in; what is
// mounted here does not go out.
func (o Overlay) mount() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return &segment{"make mounts private", err}
	}
	err := o.byDescriptor()
	if err == unix.EINVAL || err == unix.ENOSYS {
		err = o.byString()
	}
	if err != nil {
		return &segment{"mount overlay on " + o.Target, err}
	}
	return nil
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
