package ns_test

import (
	"bufio"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/ns"
)

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes namespaces and mounts")
	}
}

// monitorBin is the program that the holder is; built by TestMain.
func monitorBin() string { return filepath.Join(os.Getenv("BERTH_TEST_BIN"), "berth-monitor") }

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "berth-ns-test")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		os.Chmod(dir, 0o755) // a holder in a user namespace is somebody else
		os.Setenv("BERTH_TEST_BIN", dir)
		c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", monitorBin(), "../../cmd/berth-monitor")
		c.Env = append(os.Environ(), "CGO_ENABLED=0")
		if text, err := c.CombinedOutput(); err != nil {
			os.Stderr.Write(text)
			return 1
		}
		return m.Run()
	}())
}

// holder is a running holder.
type holder struct {
	pid   int
	stdin io.Closer
	said  string
	wait  func() error
}

// hold starts a holder as the monitor does.
func hold(t testing.TB, s ns.Spec) *holder {
	t.Helper()
	c, err := s.Spawn(monitorBin())
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(c.Path)
	cmd.Args, cmd.Env = c.Argv, c.Env
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: c.Clone, Setsid: true}
	for _, m := range c.UIDMap {
		cmd.SysProcAttr.UidMappings = append(cmd.SysProcAttr.UidMappings, sysMap(m))
	}
	for _, m := range c.GIDMap {
		cmd.SysProcAttr.GidMappings = append(cmd.SysProcAttr.GidMappings, sysMap(m))
	}
	if s.User {
		cmd.SysProcAttr.GidMappingsEnableSetgroups = true
		cmd.SysProcAttr.Credential = &syscall.Credential{}
	}
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err = cmd.Start(); err != nil {
		t.Fatal(err)
	}
	h := &holder{pid: cmd.Process.Pid, stdin: stdin, wait: cmd.Wait}
	t.Cleanup(func() { cmd.Process.Kill(); cmd.Wait() })
	h.said, _ = bufio.NewReader(stdout).ReadString('\n')
	return h
}

func sysMap(m ns.IDMap) syscall.SysProcIDMap {
	return syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
}

func link(t *testing.T, path string) string {
	t.Helper()
	s, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// in runs a command in pinned namespaces.
func in(t *testing.T, p ns.Pins, args ...string) string {
	t.Helper()
	var flags []string
	for _, f := range []struct{ flag, path string }{{"--user=", p.User}, {"--net=", p.Net}, {"--ipc=", p.IPC}, {"--uts=", p.UTS}, {"--pid=", p.PID}} {
		if f.path != "" {
			flags = append(flags, f.flag+f.path)
		}
	}
	out, err := exec.Command("nsenter", append(append(flags, "--"), args...)...).CombinedOutput()
	if err != nil {
		t.Errorf("%v: %v: %s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

func TestPinned(t *testing.T) {
	needRoot(t)
	idMap := []ns.IDMap{{ContainerID: 0, HostID: 700000, Size: 65536}}
	for name, user := range map[string]bool{"plain": false, "user": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := ns.Spec{
				Net: true, IPC: true, UTS: true, User: user, Hostname: "some-pod",
				Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "33", "net/ipv4/ping_group_range": "0 0", "kernel.shm_rmid_forced": "1"},
			}
			if user {
				s.UIDMap, s.GIDMap = idMap, idMap
			}
			h := hold(t, s)
			if h.said != "ok\n" {
				t.Fatalf("holder said %q", h.said)
			}
			root := t.TempDir()
			dir, netPath := filepath.Join(root, "ns"), filepath.Join(root, "netns", "berth-x")
			var p ns.Pins
			for range 2 { // idempotent
				var err error
				if p, err = ns.Pin(h.pid, s.Kinds(), dir, netPath); err != nil {
					t.Fatal(err)
				}
			}
			t.Cleanup(func() {
				for range 2 {
					if err := ns.Unpin(dir, netPath); err != nil {
						t.Error(err)
					}
				}
				if left, _ := filepath.Glob(root + "/*/*"); len(left) != 0 {
					t.Errorf("left: %q", left)
				}
				if b, _ := os.ReadFile("/proc/self/mountinfo"); strings.Contains(string(b), root) {
					t.Error("mounts left")
				}
			})
			h.stdin.Close()
			if err := h.wait(); err != nil {
				t.Errorf("holder ended with %v", err)
			}
			if got := in(t, p, "cat", "/proc/sys/kernel/hostname", "/proc/sys/net/ipv4/ip_unprivileged_port_start", "/proc/sys/net/ipv4/ping_group_range", "/proc/sys/kernel/shm_rmid_forced"); got != "some-pod\n33\n0\t0\n1" {
				t.Errorf("inside: %q", got)
			}
			if got := in(t, p, "cat", "/sys/class/net/lo/flags"); user && got == "" {
				t.Log("no sysfs view") // sysfs shows the mounter's network; Dial below tells about lo
			}
			testDial(t, p.Net)
			testCounter(t, p.Net)
		})
	}
}

// testDial connects to a server inside a network namespace.
func testDial(t *testing.T, path string) {
	addr := make(chan string, 1)
	go func() { // ends with the connection; its thread is thrown away
		enter(path)
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			addr <- err.Error()
			return
		}
		addr <- l.Addr().String()
		c, err := l.Accept()
		if err == nil {
			io.Copy(c, c)
			c.Close()
		}
		l.Close()
	}()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	c, err := ns.Dial(ctx, path, "tcp", <-addr)
	if err != nil {
		t.Error(err)
		return
	}
	defer c.Close()
	io.WriteString(c, "hello")
	c.(*net.TCPConn).CloseWrite()
	if b, err := io.ReadAll(c); string(b) != "hello" || err != nil {
		t.Errorf("%q %v", b, err)
	}
	if _, err = ns.Dial(ctx, path, "tcp", "127.0.0.1:1"); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("closed port: %v", err)
	}
	if _, err = ns.Dial(ctx, path+"x", "tcp", "127.0.0.1:1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no namespace: %v", err)
	}
	if _, err = ns.Dial(ctx, path, "tcp", "localhost:1"); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("name: %v", err)
	}
}

func TestStay(t *testing.T) {
	needRoot(t)
	t.Parallel()
	s := ns.Spec{PID: true, Stay: true}
	h := hold(t, s)
	if h.said != "ok\n" {
		t.Fatalf("holder said %q", h.said)
	}
	root := t.TempDir()
	dir := filepath.Join(root, "ns")
	p, err := ns.Pin(h.pid, s.Kinds(), dir, "")
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Unpin(dir, "")
	h.stdin.Close()
	// An orphan in the namespace is reaped, and init survives what is sent to it from inside.
	in(t, p, "sh", "-c", "(sleep 0.1 &) ; kill -TERM 1; kill -INT 1; kill -KILL 1; kill -SEGV 1; kill -QUIT 1; kill -CHLD 1")
	syscall.Kill(h.pid, syscall.SIGTERM) // from outside: ignored too
	children := func() string {
		b, _ := os.ReadFile("/proc/" + itoa(h.pid) + "/task/" + itoa(h.pid) + "/children")
		return string(b)
	}
	for end := time.Now().Add(time.Minute); children() != "" && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	time.Sleep(300 * time.Millisecond) // for a signal that is not ignored to kill it
	if b, err := os.ReadFile("/proc/" + itoa(h.pid) + "/cmdline"); err != nil || string(b) != "berth-monitor: pod\x00" {
		t.Errorf("init is %q, %v", b, err)
	}
	if b, _ := os.ReadFile("/proc/" + itoa(h.pid) + "/comm"); string(b) != "berth-pod\n" {
		t.Errorf("comm %q", b)
	}
	if c := children(); c != "" {
		t.Errorf("children %q", c)
	}
	for fd := range 3 {
		if to := link(t, "/proc/"+itoa(h.pid)+"/fd/"+itoa(fd)); to != "/dev/null" {
			t.Errorf("fd %d is %s", fd, to)
		}
	}
}

func TestHolderErrors(t *testing.T) {
	needRoot(t)
	t.Parallel()
	for name, s := range map[string]ns.Spec{
		"set sysctl net/ipv4/no_such: no such file or directory\n": {Net: true, Sysctls: map[string]string{"net.ipv4.no_such": "1"}},
		"set sysctl net/ipv4/ip_forward: invalid argument\n":       {Net: true, Sysctls: map[string]string{"net.ipv4.ip_forward": "many"}},
	} {
		h := hold(t, s)
		if h.said != name {
			t.Errorf("holder said %q, want %q", h.said, name)
		}
		if h.wait() == nil {
			t.Error("holder ended with 0")
		}
	}
}

func TestSpawnRefuses(t *testing.T) {
	t.Parallel()
	m := []ns.IDMap{{HostID: 1, Size: 1}}
	for name, s := range map[string]ns.Spec{
		"stay":     {Stay: true},
		"hostname": {Hostname: "x"},
		"maps":     {User: true, UIDMap: m},
		"dots":     {Sysctls: map[string]string{"net..x": "1"}},
		"up":       {Sysctls: map[string]string{"net/../../x": "1"}},
		"absolute": {Sysctls: map[string]string{"/etc/passwd": "1"}},
		"empty":    {Sysctls: map[string]string{"": "1"}},
		"equals":   {Sysctls: map[string]string{"a=b": "1"}},
		"zero":     {UTS: true, Hostname: "a\x00b"},
	} {
		if c, err := s.Spawn(""); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %+v %v", name, c, err)
		}
	}
}

func TestSysctlNotation(t *testing.T) {
	t.Parallel()
	c, err := ns.Spec{Net: true, Sysctls: map[string]string{
		"net.ipv4.conf.eth0/1.mtu": "a", "net/ipv4/conf/eth0.2/mtu": "b=c", "kernel.shmmax": "",
	}}.Spawn("")
	want := []string{"GOMAXPROCS=1", "BERTH_NET=1", "BERTH_SYSCTL_0=kernel/shmmax=", "BERTH_SYSCTL_1=net/ipv4/conf/eth0.1/mtu=a", "BERTH_SYSCTL_2=net/ipv4/conf/eth0.2/mtu=b=c"}
	if err != nil || !slices.Equal(c.Env, want) {
		t.Errorf("%q %v", c.Env, err)
	}
}

// A holder from its start to pinned namespaces.
func BenchmarkHolder(b *testing.B) {
	needRoot(b)
	s := ns.Spec{Net: true, IPC: true, UTS: true, Hostname: "pod", Sysctls: map[string]string{"net.ipv4.ip_unprivileged_port_start": "0"}}
	root := b.TempDir()
	dir, netPath := filepath.Join(root, "ns"), filepath.Join(root, "netns", "x")
	for b.Loop() {
		h := hold(b, s)
		if h.said != "ok\n" {
			b.Fatal(h.said)
		}
		if _, err := ns.Pin(h.pid, s.Kinds(), dir, netPath); err != nil {
			b.Fatal(err)
		}
		h.stdin.Close()
		b.StopTimer()
		h.wait()
		if err := ns.Unpin(dir, netPath); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}

// testCounter counts what testDial sent over the loopback interface.
func testCounter(t *testing.T, path string) {
	c, err := ns.OpenCounter(path)
	if err != nil {
		t.Fatal(err)
	}
	links, err := c.Links()
	if err != nil {
		t.Fatal(err)
	}
	found := false
	for _, l := range links {
		if l.Name == "lo" {
			found = l.RxBytes > 5 && l.TxBytes == l.RxBytes && l.RxPackets > 3
		}
	}
	if !found {
		t.Errorf("links %+v: no lo with traffic", links)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("second close: %v", err)
	}
	if _, err := c.Links(); err == nil {
		t.Error("a closed counter reads")
	}
}
