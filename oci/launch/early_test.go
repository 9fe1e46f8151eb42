package launch_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// traced runs a command and tells whether the Go runtime has been started in it: then it lists what it initialises.
func (b *box) traced(args ...string) (r result, started bool) {
	b.t.Helper()
	b.t.Setenv("GODEBUG", "inittrace=1")
	defer os.Unsetenv("GODEBUG")
	r = b.oci(args...)
	return r, strings.Contains(r.err, "init runtime @")
}

func needEarly(t *testing.T) {
	t.Helper()
	if runtime.GOARCH != "amd64" || os.Getenv("RUNTIME") != "" {
		t.Skip("nothing is done before the Go runtime starts on this machine, or another runtime is tested")
	}
}

// Start and delete of an ordinary container are over before the Go runtime is there. A process that was killed leaves its
// cgroup some time after it has ended, and until then delete is the ordinary program's: so one of ten has to be early.
func TestEarly(t *testing.T) {
	needEarly(t)
	early := false
	for i := 0; i < 10 && !early; i++ {
		b := newBox(t, "sleep")
		b.id += "-" + strconv.Itoa(i)
		b.spec.Linux.CgroupsPath += "-" + strconv.Itoa(i)
		b.create()
		if r, started := b.traced("start", b.id); r.code != 0 || started {
			t.Errorf("start: code %d, runtime started %v: %s", r.code, started, r.err)
		}
		// one that runs is refused by the ordinary program, which has words for it
		if r, started := b.traced("delete", b.id); r.code == 0 || !started || !strings.Contains(r.err, "not stopped") {
			t.Errorf("delete of a running container: code %d, runtime started %v: %s", r.code, started, r.err)
		}
		if r := b.oci("start", b.id); r.code == 0 || r.err == "" {
			t.Errorf("second start: code %d: %s", r.code, r.err)
		}
		b.must("kill", b.id, "KILL")
		b.stopped()
		r, started := b.traced("delete", b.id)
		if r.code != 0 {
			t.Errorf("delete: code %d: %s", r.code, r.err)
		}
		early = !started
		if r := b.oci("delete", b.id); r.code == 0 {
			t.Error("second delete: no error")
		}
	}
	if !early {
		t.Error("no delete was early")
	}
}

// enter moves a process into the container's cgroups.
func (b *box) enter(pid int) {
	b.t.Helper()
	files, _ := filepath.Glob("/sys/fs/cgroup/*" + b.spec.Linux.CgroupsPath + "/cgroup.procs")
	for _, f := range append(files, "/sys/fs/cgroup"+b.spec.Linux.CgroupsPath+"/cgroup.procs") {
		if err := os.WriteFile(f, []byte(strconv.Itoa(pid)), 0); err != nil && !os.IsNotExist(err) {
			b.t.Fatal(err)
		}
	}
}

// stopped waits until the container's process has ended.
func (b *box) stopped() {
	b.t.Helper()
	for end := time.Now().Add(time.Minute); !strings.Contains(b.must("state", b.id).out, `"stopped"`); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			b.t.Fatal("the container does not stop")
		}
	}
}

// What the init has to say reaches start's caller although it was asked before the Go runtime was there.
func TestEarlyStartError(t *testing.T) {
	needEarly(t)
	b := newBox(t)
	b.spec.Process.Args = []string{"/absent"}
	b.create()
	log := b.bundle + "/log"
	r := b.oci("--log", log, "--log-format", "json", "start", b.id)
	text, _ := os.ReadFile(log)
	for _, said := range []string{r.err, string(text)} {
		if r.code == 0 || !strings.Contains(said, "exec /absent: no such file or directory") {
			t.Errorf("code %d: %q", r.code, said)
		}
	}
}

// Hooks, and processes that are left in the cgroup, are the ordinary program's.
func TestEarlyLeaves(t *testing.T) {
	needEarly(t)
	b := newBox(t, "sleep")
	mark := b.bundle + "/mark"
	b.spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "cat >" + mark}}}}
	b.create()
	b.must("start", b.id)
	b.must("kill", b.id, "KILL")
	b.stopped()
	if r, started := b.traced("delete", b.id); r.code != 0 || !started {
		t.Errorf("delete with a hook: code %d, runtime started %v: %s", r.code, started, r.err)
	}
	if _, err := os.Stat(mark); err != nil {
		t.Errorf("poststop hook: %v", err)
	}

	b = newBox(t, "sleep")
	b.id += "-other"
	b.spec.Linux.CgroupsPath += "-other"
	b.create()
	other := exec.Command("sleep", "1000")
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	defer other.Wait()
	defer other.Process.Kill()
	b.enter(other.Process.Pid)
	b.must("start", b.id)
	b.must("kill", b.id, "KILL")
	b.stopped()
	if r, started := b.traced("delete", b.id); r.code != 0 || !started {
		t.Errorf("delete of a cgroup in use: code %d, runtime started %v: %s", r.code, started, r.err)
	}
	if err := other.Wait(); err == nil || !strings.Contains(err.Error(), "killed") {
		t.Errorf("process in the container's cgroup: %v, want it killed", err)
	}
}
