package netplugin_test

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"
)

// insideEnv marks the copy of the test program that runs in namespaces of its own.
const insideEnv = "BERTH_NETPLUGIN_TEST"

// The main goroutine keeps the first thread for itself. Another that ended with it locked, as those of newNS do, would leave it
// where it is, in the namespace it made, for as long as the process lives.
func init() { runtime.LockOSThread() }

// TestMain runs the tests in network and mount namespaces of their own, so that links, rules and sysctls of the host
// are never touched and nothing can be left behind.
func TestMain(m *testing.M) {
	if os.Getuid() != 0 || os.Getenv(insideEnv) != "" {
		if os.Getuid() == 0 {
			furnish()
		}
		os.Exit(m.Run())
	}
	os.Exit(again())
}

// again runs this program in the namespaces, with a directory for its temporary files, and returns its exit code.
func again() int {
	tmp, err := os.MkdirTemp("", "netplugin")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	c := exec.Command("/proc/self/exe", os.Args[1:]...)
	c.Env = append(os.Environ(), insideEnv+"=1", "TMPDIR="+tmp)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	err = c.Run()
	if c.ProcessState == nil {
		fmt.Fprintln(os.Stderr, "namespaces for the tests:", err)
		return 1
	}
	return c.ProcessState.ExitCode()
}

// furnish makes the namespaces usable: private mounts, empty directories for plugins' state, lo up.
func furnish() {
	must := func(err error) {
		if err != nil {
			fmt.Fprintln(os.Stderr, "furnish namespaces:", err)
			os.Exit(1)
		}
	}
	must(unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
	for _, dir := range []string{"/var/lib/cni", "/run/cni"} {
		must(os.MkdirAll(dir, 0o755))
		must(unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
	}
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	must(err)
	ifr, err := unix.NewIfreq("lo")
	must(err)
	ifr.SetUint16(unix.IFF_UP)
	must(unix.IoctlIfreq(fd, unix.SIOCSIFFLAGS, ifr))
	unix.Close(fd)
}

func needRoot(t testing.TB) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Skip("needs root: makes network namespaces")
	}
}

// newNS makes a network namespace and returns the path of its pin.
func newNS(t testing.TB) string {
	t.Helper()
	needRoot(t)
	path := filepath.Join(t.TempDir(), "net")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	done := make(chan error)
	// ends when the namespace is pinned; the thread, being locked, ends with it
	go func() {
		runtime.LockOSThread()
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- unix.Mount(fmt.Sprintf("/proc/self/task/%d/ns/net", unix.Gettid()), path, "", unix.MS_BIND, "")
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dropNS(path) })
	return path
}

// dropNS drops the namespace; the path stays as a plain file, as after a reboot.
func dropNS(path string) { _ = unix.Unmount(path, unix.MNT_DETACH) }

// inNS runs f with its thread in the namespace; sockets made there stay there.
func inNS(t testing.TB, path string, f func() error) {
	t.Helper()
	if path == "" {
		if err := f(); err != nil {
			t.Fatal(err)
		}
		return
	}
	done := make(chan error)
	// ends when f has returned; the thread, being locked, ends with it
	go func() {
		runtime.LockOSThread()
		fd, err := os.Open(path)
		if err != nil {
			done <- err
			return
		}
		defer fd.Close()
		if err := unix.Setns(int(fd.Fd()), unix.CLONE_NEWNET); err != nil {
			done <- err
			return
		}
		done <- f()
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// berthBridge builds the plugin once and returns its directory.
var berthBridge = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "berth-bridge")
	if err != nil {
		return "", err
	}
	// The go command keeps a test's result until a file that the test read changes.
	sources, _ := filepath.Glob("bridge/*.go")
	for _, f := range sources {
		if _, err := os.ReadFile(f); err != nil {
			return "", err
		}
	}
	c := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", dir, "../cmd/berth-bridge")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build berth-bridge: %w: %s", err, out)
	}
	return dir, nil
})

func bridgeDir(t testing.TB) string {
	t.Helper()
	needRoot(t)
	dir, err := berthBridge()
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// referenceDir is the directory of the reference plugins: $BERTH_CNI_BIN, or the usual places.
func referenceDir(t testing.TB, plugins ...string) string {
	t.Helper()
	needRoot(t)
	if _, err := exec.LookPath("iptables"); err != nil {
		t.Skip("reference plugins need iptables(8), Debian package iptables")
	}
	for _, dir := range []string{os.Getenv("BERTH_CNI_BIN"), "../.cache/cni", "/opt/cni/bin"} {
		if dir == "" {
			continue
		}
		missing := false
		for _, p := range plugins {
			if _, err := os.Stat(filepath.Join(dir, p)); err != nil {
				missing = true
			}
		}
		if !missing {
			abs, err := filepath.Abs(dir)
			if err != nil {
				t.Fatal(err)
			}
			return abs
		}
	}
	t.Skipf("no reference plugins (%s) in $BERTH_CNI_BIN, .cache/cni, /opt/cni/bin", strings.Join(plugins, ", "))
	return ""
}

// snapshot lists what plugins leave in the kernel: links but the loopback device, nftables.
func snapshot(t testing.TB) string {
	t.Helper()
	links, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	var b strings.Builder
	for _, l := range links {
		if l.Name != "lo" && !strings.HasPrefix(l.Name, "ifb") {
			fmt.Fprintln(&b, "link", l.Name)
		}
	}
	out, err := exec.Command("nft", "--stateless", "list", "ruleset").Output() // rules of others count packets meanwhile
	if err != nil && !errors.Is(err, exec.ErrNotFound) {
		t.Fatal(err)
	}
	b.Write(out)
	return b.String()
}
