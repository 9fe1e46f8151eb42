package launch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
)

func TestTerminal(t *testing.T) {
	t.Parallel()
	b := newBox(t, "tty")
	sock, master := bundle.Console(t)
	b.spec.Process.Terminal = true
	b.spec.Process.ConsoleSize = &specs.Box{Height: 33, Width: 101}
	b.config()
	b.must("create", "--bundle", b.bundle, "--console-socket", sock, b.id)
	pty := master()
	b.must("start", b.id)
	got := decode(t, bundle.ReadUntil(t, pty, "\n"))
	if want := "map[cols:101 console:true foreground:true leader:true rows:33]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
}

func TestExecTerminal(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.must("start", b.id)
	sock, master := bundle.Console(t)
	p, _ := json.Marshal(&specs.Process{Terminal: true, Args: []string{"/probe", "tty"}, Cwd: "/"})
	os.WriteFile(b.bundle+"/process.json", p, 0o644)
	b.must("exec", "--detach", "--process", b.bundle+"/process.json", "--console-socket", sock, "--pid-file", b.bundle+"/p", b.id)
	if said := bundle.ReadUntil(t, master(), "\n"); !strings.Contains(said, `"leader":true`) {
		t.Errorf("%q", said)
	}
}

func TestHooks(t *testing.T) {
	t.Parallel()
	b := newBox(t, "exit", "0")
	log := t.TempDir() + "/log"
	h := func(name string) []specs.Hook {
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "read s; echo " + name + " $(readlink /proc/self/ns/uts) $s >> " + log}}}
	}
	//lint:ignore SA1019 Deprecated, but a runtime has to honour it.
	b.spec.Hooks = &specs.Hooks{Prestart: h("prestart"), CreateRuntime: h("createRuntime"), CreateContainer: h("createContainer"),
		Poststart: h("poststart"), Poststop: h("poststop")}
	b.spec.Annotations = map[string]string{"key": "value"}
	b.config()
	b.must("create", "--bundle", b.bundle, b.id)
	b.must("start", b.id)
	b.oci("delete", "--force", b.id)
	text, _ := os.ReadFile(log)
	var order []string
	status := map[string]string{"prestart": "creating", "createRuntime": "creating", "createContainer": "creating", "poststart": "running", "poststop": "stopped"}
	own, _ := os.Readlink("/proc/self/ns/uts")
	for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
		name, doc, _ := strings.Cut(line, " ")
		order = append(order, name)
		space, doc, _ := strings.Cut(doc, " ")
		for _, want := range []string{`"id":"` + b.id + `"`, `"status":"` + status[name] + `"`, `"bundle":"` + b.bundle + `"`, `"key":"value"`} {
			if !strings.Contains(doc, want) {
				t.Errorf("state of %s lacks %s: %s", name, want, doc)
			}
		}
		if (space == own) != (name != "createContainer") {
			t.Errorf("%s runs in %s, the runtime in %s", name, space, own)
		}
	}
	if got, want := strings.Join(order, " "), "prestart createRuntime createContainer poststart poststop"; got != want {
		t.Errorf("hooks %s, want %s", got, want)
	}
}

func TestHookFails(t *testing.T) {
	t.Parallel()
	second := 1
	for name, h := range map[string]specs.Hook{
		"status":  {Path: "/bin/sh", Args: []string{"sh", "-c", "echo because >&2; exit 3"}},
		"timeout": {Path: "/bin/sleep", Args: []string{"sleep", "60"}, Timeout: &second},
	} {
		for kind, set := range map[string]func(*specs.Hooks){"runtime": func(x *specs.Hooks) { x.CreateRuntime = []specs.Hook{h} },
			"container": func(x *specs.Hooks) { x.CreateContainer = []specs.Hook{h} }} {
			t.Run(name+"-"+kind, func(t *testing.T) {
				t.Parallel()
				b := newBox(t, "sleep")
				b.spec.Hooks = &specs.Hooks{}
				set(b.spec.Hooks)
				b.config()
				if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, h.Path) {
					t.Errorf("%d %q", r.code, r.err)
				}
			})
		}
	}
}

func TestSeccomp(t *testing.T) {
	t.Parallel()
	for _, nnp := range []bool{true, false} {
		b := newBox(t, "report")
		b.spec.Process.NoNewPrivileges = nnp
		errno := uint(unix.EPERM)
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"umask"}, Action: specs.ActErrno, ErrnoRet: &errno}}}
		for range 2 { // the second time from the cache
			r := b.report()
			if st := r["Status"].(map[string]any); st["Seccomp"] != "2" {
				t.Errorf("seccomp %v", st["Seccomp"])
			}
		}
		if files, _ := os.ReadDir(b.root + "/.seccomp"); len(files) != 1 {
			t.Errorf("%d files in the cache", len(files))
		}
	}
}

func TestDevices(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	mode, uid := os.FileMode(0o640), uint32(5)
	b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/own", Type: "c", Major: 1, Minor: 5, FileMode: &mode, UID: &uid}}
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}}
	devices := b.report()["Devices"].(map[string]any)
	for name, want := range map[string]string{"own": "20640 1:5", "null": "20666 1:3", "tty": "20666 5:0", "fd": "120777 0:0"} {
		if devices[name] != want {
			t.Errorf("%s: %v, want %s", name, devices[name], want)
		}
	}
}

func TestCopyUp(t *testing.T) {
	t.Parallel()
	b := newBox(t, "cat", "/etc/passwd")
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "/etc", Type: "tmpfs", Source: "tmpfs", Options: []string{"tmpcopyup", "mode=755"}})
	if r := b.run(); !strings.HasPrefix(r.out, "root:") {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

func TestSysctl(t *testing.T) {
	t.Parallel()
	b := newBox(t, "cat", "/proc/sys/net/ipv4/ip_forward")
	b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
	if r := b.run(); r.out != "1\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

// Descriptions of what can be done do not claim more than there is: each namespace and mount option named is accepted.
func TestFeatures(t *testing.T) {
	t.Parallel()
	b := newBox(t)
	var f struct {
		MountOptions []string
		Linux        struct{ Namespaces []string }
	}
	if err := json.Unmarshal([]byte(b.must("features").out), &f); err != nil {
		t.Fatal(err)
	}
	if len(f.MountOptions) < 30 || len(f.Linux.Namespaces) != 8 {
		t.Errorf("%d options, %d namespaces", len(f.MountOptions), len(f.Linux.Namespaces))
	}
}

func TestUpdate(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	b.create()
	b.must("start", b.id)
	b.must("update", "--pids-limit", "77", "--memory", "33554432", b.id)
	for file, want := range map[string]string{"pids/%s/pids.max": "77", "memory/%s/memory.limit_in_bytes": "33554432"} {
		name := "/sys/fs/cgroup/" + fmt.Sprintf(file, cgroups[1:]+"/"+b.id)
		if text, err := os.ReadFile(name); err == nil && strings.TrimSpace(string(text)) != want {
			t.Errorf("%s: %s, want %s", name, text, want)
		}
	}
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	b := newBox(t, "exit", "0")
	b.spec.Process.Scheduler = &specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}
	b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
	if r := b.run(); r.code != 0 {
		t.Errorf("%d %q", r.code, r.err)
	}
}

// A limit of one task does not keep the init from getting ready.
func TestPidsLimit(t *testing.T) {
	t.Parallel()
	b := newBox(t, "sleep")
	one := int64(1)
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &one}}
	b.create()
}
