package attack_test

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
	"github.com/berth-runtime/berth/test/bundle/seen"
)

// openForOthers opens directories of the host, not close-on-exec, as a careless caller of the runtime may have.
func openForOthers(t *testing.T, dir string) []*os.File {
	t.Helper()
	var files []*os.File
	for range 5 {
		f, err := os.Open(dir)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { f.Close() })
		files = append(files, f)
	}
	return files
}

// No descriptor but 0, 1 and 2 reaches the container, by create or exec, whatever the runtime's caller had open.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	b := newBox(t, "report")
	b.config()
	leaks := openForOthers(t, w.dir)
	if s := b.decode(b.ociWith(nil, leaks, "run", "--bundle", b.bundle, b.id)); s != nil && len(s.FDs) > 0 {
		t.Errorf("run: %v", s.FDs)
	}
	b = newBox(t, "sleep")
	if _, ok := b.start(); !ok {
		t.Fatal("no container")
	}
	if s := b.decode(b.ociWith(nil, leaks, "exec", b.id, "/probe", "report")); s == nil || len(s.FDs) > 0 {
		t.Errorf("exec: %+v", s)
	}
}

// A working directory that is a descriptor of the runtime's, by name or by the image's link (CVE-2024-21626), in create
// and in exec. From where the payload then is, nothing of the host may be found.
func TestWorkdirDescriptor(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	long := newBox(t, "sleep")
	if _, ok := long.start(); !ok {
		t.Fatal("no container")
	}
	for n := 3; n < 20; n++ {
		b := newBox(t, "climb", w.dir+"/secret")
		b.spec.Process.Cwd = fmt.Sprintf("/proc/self/fd/%d", n)
		if n%2 == 0 {
			os.Symlink(b.spec.Process.Cwd, b.rootfs+"/link")
			b.spec.Process.Cwd = "/link"
		}
		b.config()
		r := b.ociWith(nil, openForOthers(t, w.dir), "run", "--bundle", b.bundle, b.id)
		if strings.Contains(r.out, "found") {
			t.Errorf("create, %d: %s", n, r.out)
		}
		cwd := fmt.Sprintf("/proc/self/fd/%d", n)
		r = long.ociWith(nil, openForOthers(t, w.dir), "exec", "--cwd", cwd, long.id, "/probe", "climb", w.dir+"/secret")
		if strings.Contains(r.out, "found") {
			t.Errorf("exec, %d: %s", n, r.out)
		}
		p, _ := json.Marshal(&specs.Process{Args: []string{"/probe", "climb", w.dir + "/secret"}, Cwd: cwd + "/../.."})
		os.WriteFile(long.bundle+"/process.json", p, 0o644)
		r = long.oci("exec", "--process", long.bundle+"/process.json", long.id)
		if strings.Contains(r.out, "found") {
			t.Errorf("exec with a document, %d: %s", n, r.out)
		}
	}
	w.check()
}

func sum(t *testing.T, name string) string {
	f, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	io.Copy(h, f)
	return fmt.Sprintf("%x", h.Sum(nil))
}

// The runtime's file can't be written: by a container that executes it as its own program or script, by one that waits
// for an exec and keeps the runtime's program open until nothing executes it (CVE-2019-5736), by one that
// looks at the waiting init. The last is tried as the host's root, who may do more than any container.
func TestOwnBinary(t *testing.T) {
	t.Parallel()
	needRoot(t)
	before := sum(t, runtimeBin())
	for name, args := range map[string][]string{"exec": {"/proc/self/exe", "init", "9"}, "become": {"/proc/self/exe", "become", "0"}, "script": {"/evil"}, "version": {"/proc/self/exe", "--version"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.write("evil", "#!/proc/self/exe\n")
			os.Chmod(b.rootfs+"/evil", 0o755)
			b.spec.Process.Args = args
			b.spec.Process.Env = append(b.spec.Process.Env, "LD_PRELOAD=/probe", "LD_LIBRARY_PATH=/", "_LIBCONTAINER_INITTYPE=standard")
			b.config()
			b.oci("run", "--bundle", b.bundle, b.id)
		})
	}
	t.Run("watched-exec", func(t *testing.T) {
		b := newBox(t, "overwrite")
		out, ok := b.start()
		if !ok {
			t.Fatal("no container")
		}
		b.waitFor(out, "up")
		b.write("evil", "#!/proc/self/exe\n")
		os.Chmod(b.rootfs+"/evil", 0o755)
		for range 15 {
			b.oci("exec", b.id, "/evil")
			b.oci("exec", b.id, "/probe", "exit", "0")
		}
		time.Sleep(50 * time.Millisecond)
		if text, _ := os.ReadFile(out); strings.Contains(string(text), "written") {
			// what was written may be a copy of the runtime: the sum below tells
			t.Logf("the payload wrote through a descriptor of a foreign program")
		}
	})
	t.Run("waiting-init", func(t *testing.T) {
		b := newBox(t, "sleep")
		b.config()
		if r := b.oci("create", "--bundle", b.bundle, "--pid-file", b.bundle+"/pid", b.id); r.code != 0 {
			t.Fatal(r.err)
		}
		fd, err := unix.Open(fmt.Sprintf("/proc/%d/exe", b.pid()), unix.O_WRONLY, 0)
		if err == nil {
			unix.Write(fd, []byte("#!"))
			unix.Close(fd)
		}
	})
	if sum(t, runtimeBin()) != before {
		t.Error("the runtime's file was changed")
	}
}

// A process in the container waits for those that exec brings in and takes what it can: their root, their descriptors,
// control (CVE-2016-9962). With a user namespace it has all capabilities over whatever is in that.
func TestWatchedExec(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*box){
		"default": func(*box) {},
		"userns": func(b *box) {
			b.userns()
			all := append(bundle.Capabilities(), "CAP_SYS_PTRACE", "CAP_SYS_ADMIN", "CAP_DAC_READ_SEARCH", "CAP_NET_ADMIN", "CAP_SETPCAP", "CAP_SYS_RESOURCE",
				"CAP_SYS_NICE", "CAP_SYS_RAWIO", "CAP_SYS_BOOT", "CAP_SYS_MODULE", "CAP_SYS_TIME", "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_LEASE",
				"CAP_LINUX_IMMUTABLE", "CAP_NET_BROADCAST", "CAP_SYS_PACCT", "CAP_SYS_TTY_CONFIG", "CAP_AUDIT_CONTROL", "CAP_AUDIT_READ",
				"CAP_MAC_ADMIN", "CAP_MAC_OVERRIDE", "CAP_SYSLOG", "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE")
			b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
			b.spec.Linux.Resources = nil
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWitness(t)
			b := newBox(t, "watch", w.dir+"/secret")
			change(b)
			out, ok := b.start()
			if !ok {
				t.Skip("the runtime refuses such a container")
			}
			b.waitFor(out, "up")
			rounds := 6
			if long() {
				rounds = 3000
			}
			for range rounds {
				b.oci("exec", b.id, "/probe", "exit", "0")
			}
			text, _ := os.ReadFile(out)
			for _, line := range strings.Split(string(text), "\n") {
				if strings.HasPrefix(line, "host file") || strings.HasPrefix(line, "ptrace of") {
					t.Error(line)
				} else if strings.HasPrefix(line, "descriptor") {
					t.Log(line)
				}
			}
			w.check()
		})
	}
}

// A startContainer hook is a program of the image: it may do what the container may, not what the init could.
func TestStartHook(t *testing.T) {
	t.Parallel()
	b := newBox(t, "exit", "0")
	b.spec.Process.User.UID = 1000
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"vhangup"}, Action: specs.ActErrno}}}
	b.write("told", "")
	os.Chmod(b.rootfs+"/told", 0o666)
	b.spec.Hooks = &specs.Hooks{StartContainer: []specs.Hook{{Path: "/probe", Args: []string{"probe", "hook", "/told"}, Env: []string{"A=b"}}}}
	r := b.run()
	text, _ := os.ReadFile(b.rootfs + "/told")
	if len(text) == 0 {
		t.Logf("the hook did not run: %d %s", r.code, r.err)
		return
	}
	s := new(seen.Reach)
	if err := json.Unmarshal(text, s); err != nil {
		t.Fatal(err)
	}
	for field, want := range map[string]string{"CapEff": "0000000000000000", "CapBnd": "00000000a80425fb", "NoNewPrivs": "1", "Seccomp": "2"} {
		if s.Status[field] != want {
			t.Errorf("the hook's %s: %s, want %s", field, s.Status[field], want)
		}
	}
	if s.UID != 1000 || len(s.FDs) > 0 {
		t.Errorf("the hook's uid %d, descriptors %v", s.UID, s.FDs)
	}
}

// No capability is inheritable unless asked for (CVE-2022-29162), in run and in exec.
func TestCapabilities(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	if _, ok := b.start(); !ok {
		t.Fatal("no container")
	}
	for _, s := range []*seen.Reach{b.decode(b.oci("exec", b.id, "/probe", "report")), newBox(t).report()} {
		if s == nil {
			t.Fatal("no report")
		}
		for set, want := range map[string]string{"CapInh": "0000000000000000", "CapAmb": "0000000000000000", "CapBnd": "00000000a80425fb", "CapEff": "00000000a80425fb"} {
			if s.Status[set] != want {
				t.Errorf("%s: %s, want %s", set, s.Status[set], want)
			}
		}
	}
}
