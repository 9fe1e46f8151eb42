package inside

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/become"
	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/seccomp"
)

// finish turns this thread into the container's process. It returns only with an error. The order matters: what needs
// privilege comes before it is dropped; a filter that needs no privilege comes last, so that it need not allow what is
// done here.
func (b *box) finish() error {
	p := &b.prog.Process
	unix.Umask(int(p.Umask))
	become.CSignals()
	become.OwnNull()
	become.OwnStreams(p.UID, b.tty)
	steps := [...]struct {
		name string
		do   func() error
	}{
		{"descriptors", func() error { // before any filter: profiles older than Linux 5.9 do not know close_range(2)
			return errno(become.CloseFrom(3 + uint(p.KeepFDs)))
		}},
		{"schedule", func() error { return schedule(&p.Schedule) }},
		{"cpu affinity", func() error { return affinity(p.Affinity) }},
		{"cwd " + p.Cwd, func() error { return b.root.chdir(p.Cwd) }},
		{"personality", func() error { return persona(&p.Security) }},
		{"rlimits", func() error { return told(become.Limits(p.Rlimits)) }},
		{"label", func() error { return b.label.write(&p.Security) }},
		{"seccomp", func() error { return b.seccomp(!p.Security.NoNewPrivs) }},
		{"capability bounding set", func() error { return bounding(p.Security.Caps) }},
		{"user", func() error { return told(become.User(p.UID, p.GID, p.Groups, p.SetGroups)) }},
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

func rlimitWarnings(limits []program.Rlimit) []string {
	var out []string
	for _, l := range limits {
		var have unix.Rlimit
		if become.Prlimit(l.Resource, nil, &have) == 0 && l.Hard > have.Max && !mayRaise() {
			out = append(out, fmt.Sprintf("rlimit %d: hard limit stays at %d: not permitted to raise it", l.Resource, have.Max))
		}
	}
	return out
}

func mayRaise() bool { return become.Granted()&(1<<unix.CAP_SYS_RESOURCE) != 0 }

// grantable takes out of the sets what this process has not got itself, and says so: the specification wants a warning,
// not an error (config.md, "Linux Process", capabilities). Capabilities(7): bounding set and permitted only shrink, and
// nothing becomes inheritable that is not in the bounding set.
func grantable(c *program.Capabilities) []string {
	if c == nil {
		return nil
	}
	have := become.Granted()
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

// told makes an error of what package become says.
func told(t become.Trouble) error {
	switch {
	case t.Errno == 0:
		return nil
	case t.What == "":
		return t.Errno
	case strings.HasSuffix(t.What, " "):
		return fmt.Errorf("%s%d: %w", t.What, t.Number, t.Errno)
	}
	return fmt.Errorf("%s: %w", t.What, t.Errno)
}

// bounding and capabilities leave all as it is where the program says nothing.
func bounding(c *program.Capabilities) error {
	if c == nil {
		return nil
	}
	return told(become.Bounding(c))
}

func capabilities(c *program.Capabilities) error {
	if c == nil {
		return nil
	}
	return told(become.Capabilities(c))
}

func noNewPrivs(on bool) error {
	if !on {
		return nil
	}
	return errno(become.NoNewPrivs())
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
	e := become.Execute(name, getenv(p.Env, "PATH"), &argv[0], &envv[0])
	runtime.KeepAlive(argv)
	runtime.KeepAlive(envv)
	if e == unix.ENOENT && !strings.ContainsRune(name, '/') {
		return fmt.Errorf("exec %s: executable file not found in $PATH: %w", name, e)
	}
	return fmt.Errorf("exec %s: %w", name, e)
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
