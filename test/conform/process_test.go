package conform_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
)

// config.md, "Process".
func TestProcess(t *testing.T) {
	b := newBox(t, "report", "an argument", "")
	umask := uint32(0o77)
	b.spec.Process.User = specs.User{UID: 1000, GID: 100, AdditionalGids: []uint32{5, 6}, Umask: &umask}
	b.spec.Process.Env = []string{"PATH=/", "EMPTY=", "WITH=a=b c", "ünicode=ß"}
	b.spec.Process.Cwd = "/tmp"
	b.spec.Domainname = "example.org"
	s := b.sees()
	equal(t, "arguments", strings.Join(s.Args, "|"), "/probe|report|an argument|")
	equal(t, "uid", s.UID, 1000)
	equal(t, "gid", s.GID, 100)
	equal(t, "groups", strings.Trim(strings.ReplaceAll(strings.Join(strings.Fields(s.Status["Groups"]), " "), "100 ", ""), " "), "5 6")
	equal(t, "umask", s.Umask, 0o77)
	equal(t, "cwd", s.Cwd, "/tmp")
	equal(t, "hostname", s.Hostname, "box")
	equal(t, "domain name", s.Domain, "example.org")
	for _, e := range b.spec.Process.Env {
		if !strings.Contains("|"+strings.Join(s.Env, "|")+"|", "|"+e+"|") {
			t.Errorf("environment lacks %q: %q", e, s.Env)
		}
	}
	for _, e := range s.Env { // HOME is runc's to add
		if name, _, _ := strings.Cut(e, "="); name != "HOME" && !strings.Contains("PATH EMPTY WITH ünicode", name) {
			t.Errorf("environment has %q", e)
		}
	}
	equal(t, "pid", s.Pid, 1)
	equal(t, "effective set of another user", s.Status["CapEff"], "0000000000000000")
}

// HOME comes from the container's own passwd file unless it is given (runc's habit; images rely on it).
func TestHome(t *testing.T) {
	for name, c := range map[string]struct {
		uid  uint32
		env  []string
		want string
	}{"root": {0, nil, "/root"}, "user": {1000, nil, "/home/user"}, "unknown": {4242, nil, "/"}, "given": {1000, []string{"HOME=/x"}, "/x"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Process.User.UID = c.uid
			b.spec.Process.Env = append(b.spec.Process.Env, c.env...)
			home := ""
			for _, e := range b.sees().Env {
				if v, ok := strings.CutPrefix(e, "HOME="); ok {
					home = v
				}
			}
			equal(t, "HOME", home, c.want)
		})
	}
}

// A working directory that is missing is made (runc's habit); one that is a file is an error.
func TestCwd(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Process.Cwd = "/made/for/it"
	equal(t, "cwd", b.sees().Cwd, "/made/for/it")
}

func TestCwdIsFile(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Process.Cwd = "/etc/passwd"
	if r := b.begin(); r.code == 0 {
		t.Error("a file as working directory is taken")
	}
}

func TestCapabilities(t *testing.T) {
	all := func(bits ...int) (v uint64) {
		for _, n := range bits {
			v |= 1 << n
		}
		return v
	}
	b := newBox(t, "report")
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: []string{"CAP_KILL", "CAP_NET_ADMIN", "CAP_CHOWN"},
		Permitted: []string{"CAP_KILL", "CAP_NET_ADMIN"}, Effective: []string{"CAP_KILL"}, Inheritable: []string{"CAP_NET_ADMIN", "CAP_KILL"},
		Ambient: []string{"CAP_NET_ADMIN"}}
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	s := b.sees()
	// after execve(2) of a plain file by another user than root: P' = ambient, E' = ambient (capabilities(7))
	for set, want := range map[string]uint64{"CapBnd": all(unix.CAP_KILL, unix.CAP_NET_ADMIN, unix.CAP_CHOWN), "CapInh": all(unix.CAP_NET_ADMIN, unix.CAP_KILL),
		"CapAmb": all(unix.CAP_NET_ADMIN), "CapPrm": all(unix.CAP_NET_ADMIN), "CapEff": all(unix.CAP_NET_ADMIN)} {
		got, _ := strconv.ParseUint(s.Status[set], 16, 64)
		if got != want {
			t.Errorf("%s: %x, want %x", set, got, want)
		}
	}
}

func TestNoCapabilities(t *testing.T) {
	b := newBox(t)
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{}
	b.tries(map[string]string{"chown:/probe": "EPERM", "sethostname:x": "EPERM", "mknod:/dev/n": "EPERM", "mount:/tmp": "EPERM", "mkdir:/tmp/x": "ok"})
}

// no_new_privs keeps a set-user-ID program from changing the user.
func TestNoNewPrivileges(t *testing.T) {
	for _, on := range []bool{true, false} {
		t.Run(strconv.FormatBool(on), func(t *testing.T) {
			b := newBox(t, "report")
			copied := b.bundle + "/rootfs/suid" // not a link: the mode is the file's
			text, err := os.ReadFile(bin + "/probe")
			if err == nil {
				err = bundle.Executable(copied, string(text))
			}
			if err == nil {
				err = unix.Chmod(copied, 0o4755)
			}
			if err != nil {
				t.Fatal(err)
			}
			b.spec.Process.Args[0] = "/suid"
			b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
			b.spec.Process.NoNewPrivileges = on
			s := b.sees()
			want := map[bool]string{true: "1000 1000 1000 1000", false: "1000 0 0 0"}[on]
			equal(t, "uids", strings.Join(strings.Fields(s.Status["Uid"]), " "), want)
			equal(t, "NoNewPrivs", s.Status["NoNewPrivs"], map[bool]string{true: "1", false: "0"}[on])
		})
	}
}

func TestRlimits(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 333, Hard: 444}, {Type: "RLIMIT_CORE", Soft: 0, Hard: 5},
		{Type: "RLIMIT_FSIZE", Soft: 1 << 20, Hard: 1 << 30}}
	s := b.sees()
	equal(t, "RLIMIT_CORE", s.Rlimits["RLIMIT_CORE"], [2]uint64{0, 5})
	equal(t, "RLIMIT_FSIZE", s.Rlimits["RLIMIT_FSIZE"], [2]uint64{1 << 20, 1 << 30})
	equal(t, "RLIMIT_NOFILE, hard", s.Rlimits["RLIMIT_NOFILE"][1], 444)
}

func TestRlimitErrors(t *testing.T) {
	for name, l := range map[string][]specs.POSIXRlimit{"unknown": {{Type: "RLIMIT_NONE"}}, "twice": {{Type: "RLIMIT_CORE"}, {Type: "RLIMIT_CORE"}},
		"soft above hard": {{Type: "RLIMIT_CORE", Soft: 2, Hard: 1}}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			b.spec.Process.Rlimits = l
			if r := b.begin(); r.code == 0 {
				t.Error("taken")
			}
		})
	}
}

func TestOOMScore(t *testing.T) {
	b := newBox(t, "report")
	n := 321
	b.spec.Process.OOMScoreAdj = &n
	equal(t, "oom_score_adj", b.sees().OOM, "321")
}

func TestSysctl(t *testing.T) {
	b := newBox(t)
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1", "kernel.shm_rmid_forced": "1", "net/ipv4/ip_default_ttl": "77", "kernel.msgmax": "9000"}
	b.tries(map[string]string{"read:/proc/sys/net/ipv4/ip_forward": "1\n", "read:/proc/sys/kernel/shm_rmid_forced": "1\n",
		"read:/proc/sys/net/ipv4/ip_default_ttl": "77\n", "read:/proc/sys/kernel/msgmax": "9000\n"})
}

// One that is not of a namespace of the container's own would change the host.
func TestSysctlOfHost(t *testing.T) {
	for name, change := range map[string]func(*box){
		"never a namespace's": func(b *box) { b.spec.Linux.Sysctl = map[string]string{"vm.swappiness": "60"} },
		"namespace shared": func(b *box) {
			b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "0"}
			b.without("network")
		},
		"unknown": func(b *box) { b.spec.Linux.Sysctl = map[string]string{"net.ipv4.no_such": "1"} },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "report")
			change(b)
			if r := b.create(); r.code == 0 {
				t.Error("taken")
			}
		})
	}
}

func (b *box) without(kind specs.LinuxNamespaceType) {
	var rest []specs.LinuxNamespace
	for _, n := range b.spec.Linux.Namespaces {
		if n.Type != kind {
			rest = append(rest, n)
		}
	}
	b.spec.Linux.Namespaces = rest
}

func TestPersonality(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: specs.PerLinux32}
	equal(t, "personality", b.sees().Personality, 8)
}

func TestSchedule(t *testing.T) {
	b := newBox(t, "report")
	b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	s := b.sees()
	equal(t, "policy", s.Policy, unix.SCHED_BATCH)
	equal(t, "nice", s.Nice, 5)
	equal(t, "I/O priority", s.IOPriority, 2<<13|6)
}

// Nothing of the runtime's own is open in the container.
func TestDescriptors(t *testing.T) {
	b := newBox(t, "report")
	b.config()
	f, err := os.Open("/")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r := b.createIn(&exec.Cmd{ExtraFiles: []*os.File{f}}); r.code != 0 {
		t.Fatal(r)
	}
	pid := b.pid()
	b.must("start", b.id)
	b.ended(pid)
	for fd, to := range decode(t, b.output()).FDs {
		if n, _ := strconv.Atoi(fd); n > 2 {
			t.Errorf("descriptor %s is %s", fd, to)
		}
	}
}

func TestPreserveDescriptors(t *testing.T) {
	b := newBox(t, "report")
	b.config()
	b.file("given", "")
	f, err := os.Open(b.bundle + "/rootfs/given")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if r := b.createIn(&exec.Cmd{ExtraFiles: []*os.File{f, f, f}}, "--preserve-fds", "2"); r.code != 0 {
		t.Fatal(r)
	}
	pid := b.pid()
	b.must("start", b.id)
	b.ended(pid)
	fds := decode(t, b.output()).FDs
	for fd, want := range map[string]bool{"3": true, "4": true, "5": false} {
		equal(t, "descriptor "+fd, strings.HasSuffix(fds[fd], "/given"), want)
	}
}

// A session keyring of the container's own.
func TestKeyring(t *testing.T) {
	b := newBox(t)
	b.tries(map[string]string{"keyctl:": "ok"})
}

// config.md, process.terminal, consoleSize; config-linux.md, "Default Devices", /dev/console.
func TestTerminal(t *testing.T) {
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 101}
	sock, master := bundle.Console(t)
	b.created("--console-socket", sock)
	pty := master()
	b.must("start", b.id)
	got := map[string]any{}
	if err := json.Unmarshal([]byte(bundle.ReadUntil(t, pty, "\n")), &got); err != nil {
		t.Fatal(err)
	}
	for what, want := range map[string]any{"leader": true, "foreground": true, "tty": true, "size": "33x101", "console": true} {
		equal(t, what, got[what], want)
	}
}

func TestTerminalOfUser(t *testing.T) {
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	b.spec.Process.User = specs.User{UID: 1000, GID: 1000}
	sock, master := bundle.Console(t)
	b.created("--console-socket", sock)
	pty := master()
	b.must("start", b.id)
	got := map[string]any{}
	if err := json.Unmarshal([]byte(bundle.ReadUntil(t, pty, "\n")), &got); err != nil {
		t.Fatal(err)
	}
	equal(t, "owner", got["owner"], any(1000.0))
}

func TestTerminalErrors(t *testing.T) {
	b := newBox(t, "tty")
	b.spec.Process.Terminal = true
	if r := b.create(); r.code == 0 {
		t.Error("a terminal without socket is taken by create")
	}
	if r := b.create("--console-socket", b.bundle+"/none"); r.code == 0 {
		t.Error("a socket that is not there is taken")
	}
	equal(t, "status", b.status(), "")
}
