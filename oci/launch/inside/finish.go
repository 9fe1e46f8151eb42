package inside

import (
	"fmt"
	"os"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/seccomp"
)

// finish turns this thread into the container's process. It returns only with an error. The order matters: what needs
// privilege comes before it is dropped; a filter that needs no privilege comes last, so that it need not allow what is
// done here.
func (b *box) finish() error {
	p := &b.prog.Process
	unix.Umask(int(p.Umask))
	ownNull()
	ownStreams(int(p.UID), b.tty)
	steps := [...]struct {
		name string
		do   func() error
	}{
		{"descriptors", func() error { // before any filter: profiles older than Linux 5.9 do not know close_range(2)
			return unix.CloseRange(3+uint(p.KeepFDs), ^uint(0)>>32, unix.CLOSE_RANGE_CLOEXEC)
		}},
		{"schedule", func() error { return schedule(&p.Schedule) }},
		{"cpu affinity", func() error { return affinity(p.Affinity) }},
		{"cwd " + p.Cwd, func() error { return b.root.chdir(p.Cwd) }},
		{"personality", func() error { return persona(&p.Security) }},
		{"rlimits", func() error { return rlimits(p.Rlimits) }},
		{"label", func() error { return b.label.write(&p.Security) }},
		{"seccomp", func() error { return b.seccomp(!p.Security.NoNewPrivs) }},
		{"capability bounding set", func() error { return bounding(p.Security.Caps) }},
		{"user", func() error { return user(p) }},
		{"capabilities", func() error { return capabilities(p.Security.Caps) }},
		{"no_new_privs", func() error { return noNewPrivs(p.Security.NoNewPrivs) }},
		{"seccomp", func() error { return b.seccomp(p.Security.NoNewPrivs) }},
	}
	for i := range steps {
		if err := steps[i].do(); err != nil {
			return fmt.Errorf("%s: %w", steps[i].name, err)
		}
	}
	// startContainer hooks are programs of the container's: they get no more than its process does.
	if err := b.run(b.prog.Finish); err != nil {
		return err
	}
	return execute(p)
}

// ownNull replaces a standard stream that is the host's null device by the container's: a descriptor into the host's /dev is
// a way out of the container, and one that a checkpoint could not write down. Without such a device it stays.
func ownNull() {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Mode&unix.S_IFMT != unix.S_IFCHR || st.Rdev != unix.Mkdev(1, 3) {
			continue
		}
		own, err := unix.Open("/dev/null", unix.O_RDWR|unix.O_CLOEXEC|unix.O_NOFOLLOW, 0)
		if err != nil {
			return
		}
		if unix.Fstat(own, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(1, 3) {
			unix.Dup3(own, fd, 0)
		}
		unix.Close(own)
	}
}

// ownStreams gives the standard streams to the container's user, who may want to open /dev/stdout again. Terminals of
// somebody else and the null device stay as they are; what can't be changed is left alone.
func ownStreams(uid int, tty bool) {
	for fd := range 3 {
		var st unix.Stat_t
		if unix.Fstat(fd, &st) != nil || st.Uid == uint32(uid) {
			continue
		}
		if st.Mode&unix.S_IFMT == unix.S_IFCHR && (!tty || st.Rdev == unix.Mkdev(1, 3)) {
			continue
		}
		unix.Fchown(fd, uid, -1)
	}
}

// chdir enters the working directory, which is made when missing. It is resolved without magic links, so that no
// descriptor of the host can become it, and looked at again from where the process then is.
func (t tree) chdir(cwd string) error {
	fd, err := t.ensure(cwd, true)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	if err := unix.Fchdir(fd); err != nil {
		return err
	}
	if wd, err := unix.Getwd(); err != nil || !strings.HasPrefix(wd, "/") {
		return fmt.Errorf("outside of the root: %w", os.ErrPermission)
	}
	return nil
}

func persona(s *program.Security) error {
	if !s.Persona {
		return nil
	}
	_, _, e := syscall.RawSyscall(unix.SYS_PERSONALITY, uintptr(s.Personality), 0, 0)
	return errno(e)
}

// rlimits sets the limits. Raising a hard limit needs CAP_SYS_RESOURCE; without it what is there bounds what is set
// (rlimitWarnings has said so).
func rlimits(limits []program.Rlimit) error {
	for _, l := range limits {
		want := unix.Rlimit{Cur: l.Soft, Max: l.Hard}
		err := prlimit(int(l.Resource), &want, nil)
		if err == unix.EPERM {
			var have unix.Rlimit
			if err := prlimit(int(l.Resource), nil, &have); err != nil {
				return err
			}
			want.Max, want.Cur = min(want.Max, have.Max), min(want.Cur, have.Max)
			err = prlimit(int(l.Resource), &want, nil)
		}
		if err != nil {
			return fmt.Errorf("resource %d: %w", l.Resource, err)
		}
	}
	return nil
}

func rlimitWarnings(limits []program.Rlimit) []string {
	var out []string
	for _, l := range limits {
		var have unix.Rlimit
		if prlimit(int(l.Resource), nil, &have) == nil && l.Hard > have.Max && !mayRaise() {
			out = append(out, fmt.Sprintf("rlimit %d: hard limit stays at %d: not permitted to raise it", l.Resource, have.Max))
		}
	}
	return out
}

func mayRaise() bool { return granted()&(1<<unix.CAP_SYS_RESOURCE) != 0 }

// granted are the capabilities this thread has: in a container's user namespace all of them.
func granted() uint64 {
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if unix.Capget(&hdr, &data[0]) != nil {
		return 0
	}
	return uint64(data[1].Permitted)<<32 | uint64(data[0].Permitted)
}

// grantable takes out of the sets what this process has not got itself, and says so: the specification wants a warning,
// not an error (config.md, "Linux Process", capabilities). Capabilities(7): bounding set and permitted only shrink, and
// nothing becomes inheritable that is not in the bounding set.
func grantable(c *program.Capabilities) []string {
	if c == nil {
		return nil
	}
	have := granted()
	missing := (c.Bounding | c.Effective | c.Permitted | c.Inheritable | c.Ambient) &^ have
	for _, set := range [...]*uint64{&c.Bounding, &c.Effective, &c.Permitted, &c.Inheritable, &c.Ambient} {
		*set &= have
	}
	lost := c.Inheritable &^ c.Bounding
	c.Inheritable &= c.Bounding
	c.Ambient &= c.Inheritable
	var out []string
	for n := range 64 {
		switch bit := uint64(1) << n; {
		case missing&bit != 0:
			out = append(out, fmt.Sprintf("capability %d: not granted: the runtime has not got it", n))
		case lost&bit != 0:
			out = append(out, fmt.Sprintf("capability %d: not inheritable: not in the bounding set", n))
		}
	}
	return out
}

func bounding(c *program.Capabilities) error {
	if c == nil {
		return nil
	}
	for i := range uintptr(64) {
		if c.Bounding&(1<<i) != 0 {
			continue
		}
		err := unix.Prctl(unix.PR_CAPBSET_DROP, i, 0, 0, 0)
		if err == unix.EINVAL {
			break // the kernel knows no more
		}
		if err != nil {
			return fmt.Errorf("drop %d: %w", i, err)
		}
	}
	return nil
}

// user becomes the user. Raw system calls: credentials belong to the thread, and the library's wrappers would change
// those of all threads.
func user(p *program.Process) error {
	if err := unix.Prctl(unix.PR_SET_KEEPCAPS, 1, 0, 0, 0); err != nil {
		return err
	}
	if p.SetGroups {
		// A user namespace whose maps an unprivileged user has written has setgroups denied (user_namespaces(7)). The
		// groups of that user stay then, which nobody has asked to be others.
		if err := setgroups(p.Groups); err != nil && (len(p.Groups) > 0 || err != unix.EPERM) {
			return fmt.Errorf("setgroups: %w", err)
		}
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESGID, uintptr(p.GID), uintptr(p.GID), uintptr(p.GID)); e != 0 {
		return fmt.Errorf("setgid %d: %w", p.GID, e)
	}
	if _, _, e := syscall.RawSyscall(unix.SYS_SETRESUID, uintptr(p.UID), uintptr(p.UID), uintptr(p.UID)); e != 0 {
		return fmt.Errorf("setuid %d: %w", p.UID, e)
	}
	return unix.Prctl(unix.PR_SET_KEEPCAPS, 0, 0, 0, 0)
}

func capabilities(c *program.Capabilities) error {
	if c == nil {
		return nil
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	for i := range data {
		shift := 32 * i
		data[i] = unix.CapUserData{Effective: uint32(c.Effective >> shift), Permitted: uint32(c.Permitted >> shift),
			Inheritable: uint32(c.Inheritable >> shift)}
	}
	if err := unix.Capset(&hdr, &data[0]); err != nil {
		return err
	}
	if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0); err != nil {
		return err
	}
	for i := range uintptr(64) {
		if c.Ambient&(1<<i) == 0 {
			continue
		}
		if err := unix.Prctl(unix.PR_CAP_AMBIENT, unix.PR_CAP_AMBIENT_RAISE, i, 0, 0); err != nil {
			return fmt.Errorf("ambient %d: %w", i, err)
		}
	}
	return nil
}

func noNewPrivs(on bool) error {
	if !on {
		return nil
	}
	return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
}

// seccomp loads the filter at one of its two places: before privileges go, when loading needs them, else after.
func (b *box) seccomp(now bool) error {
	s := &b.prog.Process.Security
	if !now || len(s.Filter) == 0 {
		return nil
	}
	prog, err := seccomp.Decode(s.Filter)
	if err != nil {
		return err
	}
	fd, err := seccomp.Load(prog)
	if err != nil || fd < 0 {
		return err
	}
	defer unix.Close(fd)
	if s.Notify < 0 {
		return fmt.Errorf("nobody to notify: %w", os.ErrInvalid)
	}
	return unix.Sendmsg(b.slots[s.Notify], s.NotifyState, unix.UnixRights(fd), nil, unix.MSG_NOSIGNAL)
}

// execute replaces this program. Without a slash the name is looked for in the container's PATH.
func execute(p *program.Process) error {
	argv, err := pointers(p.Args)
	if err != nil {
		return err
	}
	envv, err := pointers(p.Env)
	if err != nil {
		return err
	}
	name := p.Args[0]
	if strings.ContainsRune(name, '/') {
		return fmt.Errorf("exec %s: %w", name, execve(name, argv, envv))
	}
	found := error(unix.ENOENT)
	for _, dir := range strings.Split(getenv(p.Env, "PATH"), ":") {
		if dir == "" {
			dir = "."
		}
		err := execve(dir+"/"+name, argv, envv)
		if err != unix.ENOENT && err != unix.ENOTDIR && (err != unix.EACCES || found == unix.ENOENT) {
			found = err
		}
		if err != unix.ENOENT && err != unix.ENOTDIR && err != unix.EACCES {
			break
		}
	}
	if found == unix.ENOENT {
		return fmt.Errorf("exec %s: executable file not found in $PATH: %w", name, found)
	}
	return fmt.Errorf("exec %s: %w", name, found)
}

func getenv(env []string, key string) string {
	for i := len(env) - 1; i >= 0; i-- {
		if k, v, ok := strings.Cut(env[i], "="); ok && k == key {
			return v
		}
	}
	return ""
}

func errno(e syscall.Errno) error {
	if e != 0 {
		return e
	}
	return nil
}
