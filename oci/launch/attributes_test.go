package launch_test

import (
	"encoding/json"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Each policy ends up in the kernel as it was asked for. Realtime ones need a share of realtime in the cgroup on v1
// with RT_GROUP_SCHED, which is what linux.resources.cpu.realtimeRuntime is for.
func TestSchedulers(t *testing.T) {
	t.Parallel()
	own, err := unix.Getpriority(unix.PRIO_PROCESS, 0) // 20 less nice
	if err != nil {
		t.Fatal(err)
	}
	reset := []specs.LinuxSchedulerFlag{specs.SchedFlagResetOnFork} // a Go program has threads, which may not be made in a deadline task
	for name, c := range map[string]struct {
		s    specs.Scheduler
		want string
	}{
		"other":    {specs.Scheduler{Policy: specs.SchedOther, Nice: 7}, "policy 0 nice 7 priority 0 flags 0"},
		"batch":    {specs.Scheduler{Policy: specs.SchedBatch, Nice: 5}, "policy 3 nice 5 priority 0 flags 0"},
		"idle":     {specs.Scheduler{Policy: specs.SchedIdle}, fmt.Sprintf("policy 5 nice %d priority 0 flags 0", 20-own)}, // sched(7): nice is of the other two
		"fifo":     {specs.Scheduler{Policy: specs.SchedFIFO, Priority: 3}, "policy 1 nice 0 priority 3 flags 0"},
		"rr":       {specs.Scheduler{Policy: specs.SchedRR, Priority: 4, Flags: reset}, "policy 2 nice 0 priority 4 flags 1"},
		"deadline": {specs.Scheduler{Policy: specs.SchedDeadline, Runtime: 1e6, Deadline: 1e7, Period: 1e8, Flags: reset}, "policy 6 nice 0 priority 0 flags 1"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "sched")
			b.spec.Process.Scheduler = &c.s
			b.spec.Process.IOPriority = &specs.LinuxIOPriority{Class: specs.IOPRIO_CLASS_BE, Priority: 6}
			if c.s.Policy == specs.SchedFIFO || c.s.Policy == specs.SchedRR {
				b.realtime()
			}
			r := b.run()
			if c.s.Policy == specs.SchedDeadline && r.code != 0 && strings.Contains(r.err, "sched_setattr") {
				if err := deadline(&c.s); err != nil {
					t.Skip("the kernel admits no deadline task here, ours neither: ", err)
				}
			}
			if r.code != 0 {
				t.Fatalf("%d %q", r.code, r.err)
			}
			seen := decode(t, r.out)
			if got := fmt.Sprintf("policy %v nice %v priority %v flags %v", seen["policy"], seen["nice"], seen["priority"], seen["flags"]); got != c.want {
				t.Errorf("%s, want %s", got, c.want)
			}
			if got := fmt.Sprint(seen["io"]); got != fmt.Sprint(2<<13|6) {
				t.Errorf("I/O priority %s", got)
			}
			if c.s.Policy == specs.SchedDeadline && fmt.Sprintf("%.0f %.0f %.0f", seen["runtime"], seen["deadline"], seen["period"]) != "1000000 10000000 100000000" {
				t.Errorf("deadline: %v", seen)
			}
		})
	}
}

// The main goroutine keeps the first thread for itself: it would not end with a goroutine that is locked to it.
func init() { runtime.LockOSThread() }

// deadline asks the kernel for a deadline task of our own: a thread that ends with the goroutine which is locked to it.
func deadline(s *specs.Scheduler) error {
	err := make(chan error)
	go func() {
		runtime.LockOSThread()
		err <- unix.SchedSetAttr(0, &unix.SchedAttr{Size: unix.SizeofSchedAttr, Policy: unix.SCHED_DEADLINE, Flags: unix.SCHED_FLAG_RESET_ON_FORK,
			Runtime: s.Runtime, Deadline: s.Deadline, Period: s.Period}, 0)
	}()
	return <-err
}

// realtime gives the container a share of realtime. On v1 a share has to fit into the parent's, and only the root has
// one, so the container goes right below it.
func (b *box) realtime() {
	if _, err := os.Stat("/sys/fs/cgroup/cpu/cpu.rt_runtime_us"); err != nil {
		return
	}
	b.spec.Linux.CgroupsPath = strings.Replace(b.spec.Linux.CgroupsPath, "/", "-", -1)
	period, quota := uint64(1000000), int64(10000)
	b.spec.Linux.Resources = &specs.LinuxResources{CPU: &specs.LinuxCPU{RealtimePeriod: &period, RealtimeRuntime: &quota}}
}

// All sixteen limits, below what this process has.
func TestRlimits(t *testing.T) {
	t.Parallel()
	b := newBox(t, "rlimits")
	names := []string{"CPU", "FSIZE", "DATA", "STACK", "CORE", "RSS", "NPROC", "NOFILE", "MEMLOCK", "AS", "LOCKS", "SIGPENDING", "MSGQUEUE", "NICE", "RTPRIO", "RTTIME"}
	want := map[string][2]uint64{}
	for n, name := range names {
		var have unix.Rlimit
		if err := unix.Prlimit(0, n, nil, &have); err != nil {
			t.Fatal(err)
		}
		hard := min(have.Max, 1<<40+uint64(n))
		soft := hard - min(hard, 3)
		if n == unix.RLIMIT_CORE {
			hard, soft = have.Max, 0
		}
		if n == unix.RLIMIT_STACK {
			hard, soft = min(have.Max, 16<<20), 8<<20
		}
		want[fmt.Sprint(n)] = [2]uint64{soft, hard}
		b.spec.Process.Rlimits = append(b.spec.Process.Rlimits, specs.POSIXRlimit{Type: "RLIMIT_" + name, Soft: soft, Hard: hard})
	}
	r := b.run()
	if r.code != 0 {
		t.Fatalf("%d %q", r.code, r.err)
	}
	got := map[string][2]uint64{}
	if err := json.Unmarshal([]byte(r.out), &got); err != nil {
		t.Fatal(err)
	}
	for n, name := range names {
		g, w := got[fmt.Sprint(n)], want[fmt.Sprint(n)]
		if n == unix.RLIMIT_NOFILE {
			g[0], w[0] = 0, 0 // a Go program raises it
		}
		if g != w {
			t.Errorf("%s: %v, want %v", name, g, w)
		}
	}
}

func TestMemoryPolicy(t *testing.T) {
	t.Parallel()
	if _, err := os.Stat("/proc/self/numa_maps"); err != nil {
		t.Skip("needs a kernel with NUMA")
	}
	for mode, c := range map[specs.MemoryPolicyModeType]struct {
		nodes, want string
		flags       []specs.MemoryPolicyFlagType
	}{
		specs.MpolBind: {"0", " bind:0 ", nil}, specs.MpolInterleave: {"0", " interleave=static:0 ", []specs.MemoryPolicyFlagType{specs.MpolFStaticNodes}},
		specs.MpolPreferred: {"0", " prefer:0 ", nil}, specs.MpolPreferredMany: {"0", " prefer (many):0 ", nil}, specs.MpolLocal: {"", " local ", nil},
		specs.MpolDefault: {"", " default ", nil},
	} {
		t.Run(string(mode), func(t *testing.T) {
			b := newBox(t, "cat", "/proc/self/numa_maps")
			b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: mode, Nodes: c.nodes, Flags: c.flags}
			if r := b.run(); r.code != 0 || !strings.Contains(r.out, c.want) {
				t.Errorf("%d %q %.200s", r.code, r.err, r.out)
			}
		})
	}
	b := newBox(t, "sleep")
	b.spec.Linux.MemoryPolicy = &specs.LinuxMemoryPolicy{Mode: specs.MpolBind, Nodes: "1000"}
	b.config()
	if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, "linux.memoryPolicy") {
		t.Errorf("a node that is not there: %d %q", r.code, r.err)
	}
}

func TestPersonality(t *testing.T) {
	t.Parallel()
	if runtime.GOARCH != "amd64" {
		t.Skip("needs x86-64: looks for its 32-bit name")
	}
	for domain, want := range map[specs.LinuxPersonalityDomain]string{specs.PerLinux: "x86_64", specs.PerLinux32: "i686"} {
		b := newBox(t, "sched")
		b.id += strings.ToLower(string(domain))
		b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
		b.spec.Linux.Personality = &specs.LinuxPersonality{Domain: domain}
		r := b.run()
		if r.code != 0 || decode(t, r.out)["machine"] != want {
			t.Errorf("%s: %d %q %q", domain, r.code, r.err, r.out)
		}
	}
}

// exec runs on the CPUs named, the container's own process where it likes.
func TestExecAffinity(t *testing.T) {
	t.Parallel()
	var have unix.CPUSet
	if err := unix.SchedGetaffinity(0, &have); err != nil || have.Count() < 2 || !have.IsSet(0) || !have.IsSet(1) {
		t.Skip("needs CPUs 0 and 1")
	}
	b := newBox(t, "sleep")
	b.spec.Process.ExecCPUAffinity = &specs.CPUAffinity{Initial: "0", Final: "1"}
	b.create()
	b.must("start", b.id)
	var set unix.CPUSet
	if err := unix.SchedGetaffinity(readPid(t, b.bundle+"/pid"), &set); err != nil || set.Count() != have.Count() {
		t.Errorf("the container's process runs on %d CPUs, want %d (%v)", set.Count(), have.Count(), err)
	}
	if got := decode(t, b.must("exec", b.id, "/probe", "sched").out)["cpus"]; got != "1 false true" {
		t.Errorf("exec runs on %v", got)
	}
	for _, bad := range []specs.CPUAffinity{{Initial: "a"}, {Final: "3-1"}} {
		p := marshal(t, &specs.Process{Args: []string{"/probe", "exit", "0"}, Cwd: "/", ExecCPUAffinity: &bad})
		os.WriteFile(b.bundle+"/p.json", p, 0o644)
		if r := b.oci("exec", "--process", b.bundle+"/p.json", b.id); r.code != 255 || !strings.Contains(r.err, "process.execCPUAffinity") {
			t.Errorf("%+v: %d %q", bad, r.code, r.err)
		}
	}
}

// Capabilities that are not known, that depend on ones not given, or that the runtime has not got itself are warnings.
func TestCapabilityWarnings(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	one := []string{"CAP_KILL", "CAP_WHAT"}
	b.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: one, Permitted: one, Effective: append(slices.Clone(one), "CAP_CHOWN"), Ambient: []string{"CAP_KILL"}}
	b.config()
	r := b.oci("--log", b.bundle+"/log", "run", "--bundle", b.bundle, b.id)
	log, _ := os.ReadFile(b.bundle + "/log")
	for _, want := range []string{"CAP_WHAT", "CAP_CHOWN is not permitted", "CAP_KILL is not inheritable"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no warning %q in\n%s", want, log)
		}
	}
	if r.code != 0 {
		t.Fatalf("%d %q", r.code, r.err)
	}
	if got := decode(t, r.out)["Status"].(map[string]any)["CapEff"]; got != "0000000000000020" {
		t.Errorf("CapEff %v", got)
	}
	// a runtime with fewer capabilities than the container wants
	few := newBox(t, "report")
	few.id += "-few"
	few.spec.Linux.CgroupsPath += "-few"
	wanted := []string{"CAP_KILL", "CAP_SYS_TIME"}
	few.spec.Process.Capabilities = &specs.LinuxCapabilities{Bounding: wanted, Permitted: wanted, Effective: wanted, Inheritable: wanted, Ambient: wanted}
	few.config()
	r = few.command(nil, "setpriv", "--bounding-set", "-sys_time", "--inh-caps", "-sys_time", runtimeBin(), "--root", few.root, "--log", few.bundle+"/log",
		"run", "--bundle", few.bundle, few.id)
	log, _ = os.ReadFile(few.bundle + "/log")
	if r.code != 0 || !strings.Contains(string(log), "capability 25: not granted") {
		t.Fatalf("%d %q %s", r.code, r.err, log)
	}
	if got := decode(t, r.out)["Status"].(map[string]any)["CapEff"]; got != "0000000000000020" {
		t.Errorf("CapEff %v", got)
	}
}

// What is not as the config says and need not stop the container is in the log.
func TestWarnings(t *testing.T) {
	t.Parallel()
	b := newBox(t, "report")
	b.spec.Process.User.Username = "somebody"
	b.spec.Mounts = append(b.spec.Mounts, specs.Mount{Destination: "relative/path", Type: "tmpfs", Source: "tmpfs"})
	b.config()
	r := b.oci("--log", b.bundle+"/log", "run", "--bundle", b.bundle, b.id)
	log, _ := os.ReadFile(b.bundle + "/log")
	for _, want := range []string{"process.user.username", "mounts[7].destination"} {
		if !strings.Contains(string(log), want) {
			t.Errorf("no warning %q in\n%s", want, log)
		}
	}
	if r.code != 0 {
		t.Fatalf("%d %q", r.code, r.err)
	}
	if mounts := decode(t, r.out)["Mounts"].(map[string]any); mounts["/relative/path"] == nil {
		t.Errorf("mounts %v", mounts)
	}
}

// Names of a UTS namespace that is joined are set as well, when it is not the runtime's.
func TestDomainname(t *testing.T) {
	t.Parallel()
	b := newBox(t, "cat", "/proc/sys/kernel/domainname")
	b.spec.Domainname = "example"
	if r := b.run(); r.out != "example\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

// Conditions on arguments decide per call.
func TestSeccompArguments(t *testing.T) {
	t.Parallel()
	b := newBox(t, "personality")
	errno := uint(unix.EXDEV)
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86},
		Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow},
		Syscalls: []specs.LinuxSyscall{
			{Names: []string{"personality"}, Action: specs.ActErrno, ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 0xffffffff, Op: specs.OpNotEqual},
				{Index: 0, Value: 8, Op: specs.OpNotEqual}}},
		}}
	// two conditions on one argument: either of them (libseccomp's reading of such rules), so even 0xffffffff is refused
	if r := b.run(); r.code != 0 || r.out != "0:18 8:18 4294967295:18\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
	c := newBox(t, "personality")
	c.id += "-masked"
	c.spec.Linux.CgroupsPath += "-masked"
	c.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActErrno,
		ErrnoRet: &errno, Args: []specs.LinuxSeccompArg{{Index: 0, Value: 8, ValueTwo: 8, Op: specs.OpMaskedEqual}, {Index: 1, Value: 1, Op: specs.OpLessThan}}}}}
	if r := c.run(); r.code != 0 || r.out != "0:0 8:18 4294967295:18\n" {
		t.Errorf("%d %q %q", r.code, r.out, r.err)
	}
}

// In a user namespace devices are the host's, bound; one whose number is another's is refused.
func TestDeviceInUserNamespace(t *testing.T) {
	t.Parallel()
	maps := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
	for minor, want := range map[int64]string{5: "", 7: "is not the device 1:7"} {
		b := newBox(t, "report")
		b.id += fmt.Sprint(minor)
		b.spec.Linux.CgroupsPath += fmt.Sprint(minor)
		b.spec.Linux.UIDMappings, b.spec.Linux.GIDMappings = maps, maps
		b.spec.Linux.Namespaces = append(b.spec.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		b.spec.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/zero", Type: "c", Major: 1, Minor: minor}}
		if r := b.run(); want == "" && r.code != 0 || want != "" && (r.code == 0 || !strings.Contains(r.err, want)) {
			t.Errorf("%d: %d %q", minor, r.code, r.err)
		}
	}
}
