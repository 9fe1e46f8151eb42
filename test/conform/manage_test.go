package conform_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// runc's habits: signals by number and by name, with and without SIG; TERM when none is given.
func TestKillSignals(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	for _, c := range []struct{ arg, want string }{{"HUP", "SIGHUP"}, {"SIGUSR1", "SIGUSR1"}, {"12", "SIGUSR2"}, {"int", "SIGINT"}} {
		b.must("kill", b.id, c.arg)
		b.says(c.want)
	}
	b.refused("kill", b.id, "NONE")
	b.refused("kill", b.id, "1000")
	equal(t, "status", b.status(), "running")
	pid := b.pid()
	b.must("kill", b.id)
	equal(t, "exit code", b.ended(pid), 7)
}

// A signal goes to the container's process only, unless --all asks for all of them.
func TestKillAll(t *testing.T) {
	for _, space := range []string{"own", "host"} {
		t.Run(space, func(t *testing.T) {
			b := newBox(t, "tree", "3")
			if space == "host" {
				b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[1:]
			}
			b.started()
			var pids []int
			b.until("four processes", func() bool { pids = b.processes(); return len(pids) == 4 })
			b.must("kill", "--all", b.id, "KILL")
			b.until("no processes", func() bool { b.reap(pids); return len(b.processes()) == 0 })
			equal(t, "status", b.status(), "stopped")
		})
	}
}

// reap takes the status of those that became the test's children.
func (b *box) reap(pids []int) {
	for _, pid := range pids {
		unix.Wait4(pid, nil, unix.WNOHANG, nil)
	}
}

// processes are those that ps lists.
func (b *box) processes() []int {
	b.Helper()
	var pids []int
	r := b.oci("ps", "--format", "json", b.id)
	if r.code != 0 {
		return nil // runc has none to list for one that is gone
	}
	if err := json.Unmarshal([]byte(r.out), &pids); err != nil {
		b.Fatalf("%v: %s", err, r)
	}
	return pids
}

// What a deleted container leaves running in a PID namespace that is not its own is killed.
func TestDeleteForceKillsAll(t *testing.T) {
	b := newBox(t, "tree", "3")
	b.spec.Linux.Namespaces = b.spec.Linux.Namespaces[1:]
	b.started()
	var pids []int
	b.until("four processes", func() bool { pids = b.processes(); return len(pids) == 4 })
	b.must("delete", "--force", b.id)
	for _, pid := range pids {
		b.until("the end of "+itoa(pid), func() bool { b.reap(pids); return unix.Kill(pid, 0) == unix.ESRCH })
	}
}

func TestPs(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	pids := b.processes()
	if len(pids) != 1 || pids[0] != b.pid() {
		t.Errorf("%v, want %d", pids, b.pid())
	}
	table := b.must("ps", b.id).out
	if !strings.Contains(strings.SplitN(table, "\n", 2)[0], "PID") || !strings.Contains(table, itoa(pids[0])) {
		t.Errorf("table: %q", table)
	}
	b.refused("ps", "--format", "yaml", b.id)
}

// controller finds a file of the container's cgroup: one name for each hierarchy, v2 first.
func (b *box) controller(v2 string, v1 ...string) string {
	b.Helper()
	for _, name := range append([]string{"/sys/fs/cgroup" + groupPath(b.id) + "/" + v2}, v1...) {
		if !strings.HasPrefix(name, "/") {
			dir, file, _ := strings.Cut(name, "/")
			name = "/sys/fs/cgroup/" + dir + groupPath(b.id) + "/" + file
		}
		if text, err := os.ReadFile(name); err == nil {
			return strings.TrimSpace(string(text))
		}
	}
	b.Fatalf("no %s of %s", v2, groupPath(b.id))
	return ""
}

// config-linux.md, "Control groups".
func TestCgroup(t *testing.T) {
	b := newBox(t, "wait")
	limit, shares, quota, period, pids := int64(64<<20), uint64(512), int64(50000), uint64(100000), int64(100)
	reserve := int64(32 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Reservation: &reserve},
		CPU: &specs.LinuxCPU{Shares: &shares, Quota: &quota, Period: &period, Cpus: "0"}, Pids: &specs.LinuxPids{Limit: &pids}}
	b.started()
	equal(t, "memory", b.controller("memory.max", "memory/memory.limit_in_bytes"), itoa(64<<20))
	equal(t, "reservation", b.controller("memory.low", "memory/memory.soft_limit_in_bytes"), itoa(32<<20))
	equal(t, "pids", b.controller("pids.max", "pids/pids.max"), "100")
	equal(t, "cpus", b.controller("cpuset.cpus", "cpuset/cpuset.cpus"), "0")
	equal(t, "quota", strings.Fields(b.controller("cpu.max", "cpu/cpu.cfs_quota_us"))[0], "50000")
	if n := b.controller("cpu.weight", "cpu/cpu.shares"); n != "512" && n != "20" && n != "59" { // two mappings are in use
		t.Errorf("shares %s", n)
	}
	if got := b.controller("cgroup.procs", "memory/cgroup.procs"); got != itoa(b.pid()) {
		t.Errorf("processes %q, want %d", got, b.pid())
	}
}

func TestUpdate(t *testing.T) {
	b := newBox(t, "wait")
	limit := int64(64 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	b.started()
	b.must("update", "--memory", itoa(96<<20), "--pids-limit", "77", "--cpuset-cpus", "0", "--cpu-quota", "30000", "--cpu-period", "100000", b.id)
	equal(t, "memory", b.controller("memory.max", "memory/memory.limit_in_bytes"), itoa(96<<20))
	equal(t, "pids", b.controller("pids.max", "pids/pids.max"), "77")
	equal(t, "quota", strings.Fields(b.controller("cpu.max", "cpu/cpu.cfs_quota_us"))[0], "30000")
	doc := b.json("resources.json", map[string]any{"memory": map[string]any{"limit": 128 << 20}, "pids": map[string]any{"limit": 55}})
	b.must("update", "--resources", doc, b.id)
	equal(t, "memory from a file", b.controller("memory.max", "memory/memory.limit_in_bytes"), itoa(128<<20))
	equal(t, "pids from a file", b.controller("pids.max", "pids/pids.max"), "55")
	equal(t, "quota is left alone", strings.Fields(b.controller("cpu.max", "cpu/cpu.cfs_quota_us"))[0], "30000")
	if r := b.with(&exec.Cmd{Stdin: strings.NewReader(`{"pids":{"limit":44}}`)}, "update", "--resources", "-", b.id); r.code != 0 {
		t.Error(r)
	}
	equal(t, "pids from standard input", b.controller("pids.max", "pids/pids.max"), "44")
	b.refused("update", "--resources", b.bundle+"/missing", b.id)
}

// A paused container does not run, is said to be paused, and goes on where it was.
func TestPause(t *testing.T) {
	b := newBox(t, "wait")
	b.started()
	b.must("pause", b.id)
	equal(t, "status", b.status(), "paused")
	pid := b.pid()
	unix.Kill(pid, unix.SIGUSR1)
	equal(t, "says", b.output(), "up\n")
	b.must("resume", b.id)
	b.says("SIGUSR1")
	equal(t, "status", b.status(), "running")
}

// A container that exceeds its memory is killed, which looks like any other kill.
func TestOutOfMemory(t *testing.T) {
	b := newBox(t, "eat", "200")
	limit := int64(32 << 20)
	b.spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit, Swap: &limit}}
	equal(t, "exit code", b.run(), 128+9)
}

func TestPidsLimit(t *testing.T) {
	b := newBox(t, "tree", "100")
	n := int64(30)
	b.spec.Linux.Resources = &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &n}}
	if code := b.run(); code == 0 || strings.Contains(b.output(), "up\n") {
		t.Errorf("status %d: %s", code, b.output())
	}
}

// Device rules are applied in order to what the container does (config-linux.md, "Allowed Device list"). The devices have
// no driver: who may open one gets ENXIO. Default devices are allowed whatever the rules say.
func TestDeviceRules(t *testing.T) {
	b := newBox(t)
	major, one, two := int64(240), int64(1), int64(2)
	b.spec.Linux.Resources = &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"},
		{Allow: true, Type: "c", Major: &major, Minor: &one, Access: "r"}, {Allow: true, Type: "c", Major: &major, Minor: &two, Access: "rw"},
		{Allow: false, Type: "c", Major: &major, Minor: &two, Access: "w"}}}
	for i, name := range []string{"/dev/zero0", "/dev/read1", "/dev/read2"} {
		b.spec.Linux.Devices = append(b.spec.Linux.Devices, specs.LinuxDevice{Path: name, Type: "c", Major: major, Minor: int64(i)})
	}
	b.tries(map[string]string{"open:/dev/null": "ok", "open:/dev/zero": "ok", "read:/dev/zero0": "EPERM", "read:/dev/read1": "ENXIO",
		"write:/dev/read1": "EPERM", "read:/dev/read2": "ENXIO", "write:/dev/read2": "EPERM"})
}

// Relative and absent cgroup paths are the runtime's to place; all that is made goes at delete.
func TestCgroupsPath(t *testing.T) {
	for name, path := range map[string]string{"relative": strings.TrimPrefix(cgroups, "/") + "/relative", "absent": ""} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "wait")
			if systemd && name == "relative" {
				t.Skip("systemd's form of a path is not relative")
			}
			b.spec.Linux.CgroupsPath = path
			b.started()
			own, hierarchy := place(t, b.pid())
			if hierarchy == "" {
				t.Skip("neither a memory hierarchy of v1 nor one for all controllers")
			}
			want := b.id
			if name == "relative" {
				want = "relative"
			}
			if base := filepath.Base(own); base != want && !(systemd && strings.Contains(base, want) && strings.HasSuffix(base, ".scope")) {
				t.Errorf("cgroup %s", own)
			}
			b.must("delete", "--force", b.id)
			if !systemd && exists(hierarchy+own) {
				t.Errorf("%s is left", own)
			}
			b.until("the end of "+own, func() bool { return !exists(hierarchy + own) })
		})
	}
}

// place is the cgroup of a process in the hierarchy that has the memory controller, and where that is mounted.
func place(t *testing.T, pid int) (own, hierarchy string) {
	t.Helper()
	text, err := os.ReadFile("/proc/" + itoa(pid) + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(f) == 3 && f[1] == "memory" {
			return f[2], "/sys/fs/cgroup/memory"
		}
		if len(f) == 3 && f[1] == "" && exists("/sys/fs/cgroup/cgroup.controllers") {
			return f[2], "/sys/fs/cgroup"
		}
	}
	return "", ""
}

// The number of processes that may be there counts from the first one on, and delete finds them all.
func TestManyContainers(t *testing.T) {
	b := newBox(t, "wait")
	b.config()
	for i := range 5 {
		b.spec.Linux.CgroupsPath = groupName(b.id + strconv.Itoa(i))
		b.config()
		b.must("create", "--bundle", b.bundle, "many"+strconv.Itoa(i))
	}
	equal(t, "list", len(strings.Fields(b.must("list", "-q").out)), 5)
	for i := range 5 {
		b.must("delete", "--force", "many"+strconv.Itoa(i))
	}
	equal(t, "list", strings.TrimSpace(b.must("list", "-q").out), "")
}
