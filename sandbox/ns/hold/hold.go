// Package hold is what happens inside a pod's new namespaces before they are pinned.
//
// The holder is the monitor's binary started by the monitor with the clone flags of the pod (ns.Spec.Spawn). It is the first
// process in the new namespaces and thus the right one to furnish them: it brings lo up, sets the sysctls and the host name,
// and then says "ok" on standard output, or one line saying what went wrong. The daemon pins its /proc/PID/ns/* and closes its
// standard input, upon which it ends; the namespaces stay.
//
//	monitor ── clone(NEWUSER, NEWNET, …) ──> holder: lo, sysctls, hostname ── "ok\n" ──> daemon pins ── closes stdin ──> gone
//	                                            └ Stay: becomes init of the pod's PID namespace, for as long as the pod lives
//
// With a user namespace all others belong to it, and the holder is root in it: the same steps work, as far as the kernel
// lets a namespaced root take them.
//
// A third thing that is done inside a namespace before something else goes on is the root file system of a container that a
// foreign OCI runtime starts, which expects it mounted: NameRoot mounts it in a mount namespace that the host does not see, and
// becomes the runtime.
//
// As init of a PID namespace it reaps what the pod's containers orphan and takes no signals: those from inside are
// ignored by the kernel since there is no handler (pid_namespaces(7)), those from outside too, but for SIGKILL and SIGSTOP.
package hold

import (
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"
)

// The names under which the holder is seen in a list of processes, and by which Is knows it.
const (
	Name    = "berth-monitor: ns"
	NamePod = "berth-monitor: pod"
)

// Config is what the holder is told, by its environment.
type Config struct {
	Net      bool   // there is a new network namespace, whose lo is to be brought up
	Hostname string // "" leaves it
	Sysctls  []Sysctl
	Stay     bool
}

// Sysctl is a setting; Path is below /proc/sys.
type Sysctl struct{ Path, Value string }

const (
	keyNet      = "BERTH_NET="
	keyHostname = "BERTH_HOSTNAME="
	keyStay     = "BERTH_STAY="
	keySysctl   = "BERTH_SYSCTL_" // number, "=", path, "=", value
)

// Env is the form of c in which it travels.
func (c Config) Env() []string {
	env := []string{"GOMAXPROCS=1"}
	if c.Net {
		env = append(env, keyNet+"1")
	}
	if c.Hostname != "" {
		env = append(env, keyHostname+c.Hostname)
	}
	if c.Stay {
		env = append(env, keyStay+"1")
	}
	for i, s := range c.Sysctls {
		env = append(env, keySysctl+strconv.Itoa(i)+"="+s.Path+"="+s.Value)
	}
	return env
}

// Parse is the inverse of Env. What it does not know it passes over.
func Parse(env []string) Config {
	var c Config
	for _, e := range env {
		switch {
		case prefixed(e, keyNet):
			c.Net = true
		case prefixed(e, keyHostname):
			c.Hostname = e[len(keyHostname):]
		case prefixed(e, keyStay):
			c.Stay = true
		case prefixed(e, keySysctl):
			_, e = cut(e)
			path, value := cut(e)
			c.Sysctls = append(c.Sysctls, Sysctl{path, value})
		}
	}
	return c
}

func prefixed(s, prefix string) bool { return len(s) >= len(prefix) && s[:len(prefix)] == prefix }

// cut splits at the first "=".
func cut(s string) (before, after string) {
	for i := range len(s) {
		if s[i] == '=' {
			return s[:i], s[i+1:]
		}
	}
	return s, ""
}

// Is says whether Main is the main of a process with these arguments.
func Is(args []string) bool {
	return len(args) == 1 && (args[0] == Name || args[0] == NamePod) || len(args) > 1 && args[0] == NameRoot
}

// Main is the main of a holder, or of a program that is to have an overlay. It returns the exit status.
func Main(args []string) int {
	if args[0] == NameRoot {
		return rootMain(args[1:])
	}
	// Whatever else was inherited is nobody's business in here. Linux 5.9.
	unix.CloseRange(3, ^uint(0)>>33, 0)
	c := Parse(syscall.Environ())
	if err := furnish(c); err != nil {
		say(err.Error() + "\n")
		return 1
	}
	if c.Stay {
		becomeInit()
	}
	say("ok\n")
	if c.Stay {
		return initLoop()
	}
	waitEnd()
	return 0
}

// waitEnd waits until standard input is closed on the other side, also where the pipe is non-blocking.
func waitEnd() {
	var b [16]byte
	for {
		n, err := syscall.Read(0, b[:])
		switch {
		case err == syscall.EAGAIN:
			unix.Ppoll([]unix.PollFd{{Fd: 0, Events: unix.POLLIN}}, nil, nil)
		case err != syscall.EINTR && n <= 0:
			return
		}
	}
}

// say writes to standard output.
func say(text string) {
	b := []byte(text)
	for len(b) > 0 {
		n, err := syscall.Write(1, b)
		if err != nil && err != syscall.EINTR {
			return
		}
		b = b[max(n, 0):]
	}
}

// becomeInit takes away what would make an init of a PID namespace mortal or visible as something else.
func becomeInit() {
	resetSignals()
	setName("berth-pod")
	syscall.Chdir("/")
}

// setName sets what /proc/PID/comm shows. PR_SET_NAME would name the thread that happens to run this, not the process
// (proc_pid_comm(5)).
func setName(name string) {
	fd, err := syscall.Open("/proc/self/comm", syscall.O_WRONLY|syscall.O_CLOEXEC, 0)
	if err != nil {
		return // a name is not worth failing for
	}
	syscall.Write(fd, []byte(name))
	syscall.Close(fd)
}

// initLoop lets go of the daemon's pipes and sleeps. The kernel does the reaping: with SIGCHLD ignored, the dead are not left
// as zombies (sigaction(2)).
func initLoop() int {
	if null, err := syscall.Open("/dev/null", syscall.O_RDWR|syscall.O_CLOEXEC, 0); err == nil {
		for fd := range 3 {
			syscall.Dup3(null, fd, 0)
		}
		syscall.Close(null)
	} else {
		for fd := range 3 {
			syscall.Close(fd)
		}
	}
	for {
		unix.Ppoll(nil, nil, nil)
	}
}
