// Package harness gives tests a real daemon and a real client. One node serves all tests of a package: a registry of
// test images, and Berth on a root and state directory of its own, on a tmpfs, with its built-in network. The client
// is kubelet's (k8s.io/cri-client).
//
// A test package has
//
//	func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }
//
// and each test begins with harness.Get(t), which also compares the machine before and after the test: tests run one
// after another, and each must leave nothing behind.
//
// With BERTH_E2E_ENDPOINT=unix://... (and BERTH_E2E_LOGS, a directory for logs) the tests speak to a daemon that is
// already there, of whatever make: what fails there as well is the test's fault. hack/e2e.sh --peer containerd does that.
package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criapi "k8s.io/cri-api/pkg/apis"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	remote "k8s.io/cri-client/pkg"

	"github.com/berth-runtime/berth/test/e2e/leak"
)

// Patience is how long tests wait for what has to come: far more than a busy machine needs. A machine that is emulated on a busy
// one needs more still (BERTH_PATIENCE=5m).
var Patience = patience()

func patience() time.Duration {
	if d, err := time.ParseDuration(os.Getenv("BERTH_PATIENCE")); err == nil {
		return d
	}
	return time.Minute
}

// Node is the daemon under test and what speaks to it.
type Node struct {
	Endpoint    string
	Dir         string // all below is on one tmpfs
	Root, State string // empty for a daemon that is not ours
	Runtime     criapi.RuntimeService
	Images      criapi.ImageManagerService
	Raw         rt.RuntimeServiceClient // for requests that the client would not send
	RawImages   rt.ImageServiceClient

	top      string
	registry *exec.Cmd
	daemon   *exec.Cmd
	extra    []string // arguments of a test's own daemon
	path     string   // its PATH
	conn     *grpc.ClientConn
}

// the is the node of this test binary; nil with a reason when there is none.
var (
	the    *Node
	reason string
)

// Main runs the tests of a package with a node. It enters namespaces of its own first, so that plain "go test" is enough.
func Main(m *testing.M) int { return MainWith(m, nil) }

// MainWith is Main for a node whose configuration file is what config gives; cache is the directory of built tools.
func MainWith(m *testing.M, config func(cache string) string) int { return run(m, config, false) }

// MainJailed is Main for requests that nobody has looked at: a path in one may name anything. The daemon runs where the
// machine's files can't be written (hack/testns.sh --read-only).
func MainJailed(m *testing.M) int { return run(m, nil, true) }

func run(m *testing.M, config func(cache string) string, jailed bool) int {
	if words := os.Getenv(probeEnv); words != "" {
		if err := probe(strings.Fields(words)); err != nil {
			return complain(err)
		}
		return 0
	}
	if os.Geteuid() != 0 {
		reason = "needs root: pods are made for real"
		return m.Run()
	}
	top, err := filepath.Abs("../..")
	for ; err == nil && !exists(filepath.Join(top, "hack/testns.sh")); top = filepath.Dir(top) {
		if top == "/" {
			err = fmt.Errorf("hack/testns.sh: %w", os.ErrNotExist)
		}
	}
	if err != nil {
		return complain(err)
	}
	if jailed && os.Getenv("BERTH_JAIL") == "" || os.Getenv("BERTH_IN_TESTNS") == "" {
		return complain(syscall.Exec(filepath.Join(top, "hack/testns.sh"), args(jailed), os.Environ()))
	}
	n, err := start(top, config)
	if n != nil {
		defer n.stop()
	}
	if err != nil {
		return complain(err)
	}
	the = n
	all := leak.Options{Cgroup: cgroupParent(n.Dir)}
	before, err := leak.Take(all)
	if err != nil {
		return complain(err)
	}
	code := m.Run()
	left, err := leak.Settle(before, all, Patience)
	if err != nil || len(left) > 0 {
		fmt.Fprintf(os.Stderr, "left behind by all tests together: %v\n    %s\n", err, strings.Join(left, "\n    "))
		return 1
	}
	return code
}

// args are those of hack/testns.sh. In a jail the go command's file for its cache of results can't be written.
func args(jailed bool) []string {
	if !jailed {
		return append([]string{"testns.sh"}, os.Args...)
	}
	out := []string{"testns.sh", "--read-only"}
	for _, a := range os.Args {
		if !strings.HasPrefix(a, "-test.testlogfile=") {
			out = append(out, a)
		}
	}
	return out
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "e2e:", err)
	return 1
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

// Get returns the node, and makes the end of the test compare the machine with its beginning.
func Get(t *testing.T) *Node {
	t.Helper()
	if the == nil {
		t.Skip(reason)
	}
	before, err := leak.Take(the.owned())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		left, err := leak.Settle(before, the.owned(), Patience)
		if err != nil {
			t.Error(err)
		}
		for _, l := range left {
			t.Errorf("left behind: %s", l)
		}
		if t.Failed() && the.daemon != nil {
			t.Logf("daemon's log:\n%s", tail(filepath.Join(the.Dir, "daemon.log"), 40))
		}
	})
	return the
}

func (n *Node) owned() leak.Options {
	if n.Root == "" {
		return leak.Options{Cgroup: cgroupParent(n.Dir)}
	}
	return leak.Options{Cgroup: cgroupParent(n.Dir), Dirs: []string{n.Root, n.State}, Except: []string{filepath.Join(n.Root, "images"),
		filepath.Join(n.Root, "layers"), filepath.Join(n.State, "oci/berth/.seccomp"), filepath.Join(n.State, "oci/berth/.exe")}} // filters and programs, kept by content
}

// Foreign tells that the daemon is not ours to kill, and skips tests that would.
func (n *Node) Foreign(t *testing.T) {
	t.Helper()
	if n.daemon == nil {
		t.Skip("the daemon was started by somebody else")
	}
}

func start(top string, config func(cache string) string) (*Node, error) {
	n := &Node{top: top, Endpoint: os.Getenv("BERTH_E2E_ENDPOINT"), Dir: os.Getenv("BERTH_E2E_LOGS"), extra: []string{"--builtin-network"}}
	if n.Endpoint != "" {
		if err := n.connect(); err != nil {
			return n, err
		}
		return n, n.Warm()
	}
	dir, err := os.MkdirTemp("", "berth-e2e-")
	if err != nil {
		return nil, err
	}
	if err := os.Chmod(dir, 0o755); err != nil {
		return nil, err
	}
	if !onDisk() {
		if err := unix.Mount("berth-e2e", dir, "tmpfs", 0, "mode=755"); err != nil {
			return nil, fmt.Errorf("mount tmpfs on %s: %w", dir, err)
		}
	}
	n.Dir, n.Root, n.State = dir, filepath.Join(dir, "root"), filepath.Join(dir, "state")
	n.Endpoint = "unix://" + filepath.Join(n.State, "berth.sock")
	for _, d := range []string{n.Root, n.State, filepath.Join(dir, "certs.d"), filepath.Join(dir, "cni")} {
		if err := os.Mkdir(d, 0o755); err != nil {
			return n, err
		}
	}
	// The machine's own configuration does not count.
	text := ""
	if config != nil {
		text = config(n.Cache())
	}
	if err := n.Configure(text); err != nil {
		return n, err
	}
	if err := n.serveImages(); err != nil {
		return n, err
	}
	if err := n.Launch(); err != nil {
		return n, err
	}
	return n, n.Warm()
}

// Configure replaces the configuration file, for the next Launch.
func (n *Node) Configure(text string) error {
	return os.WriteFile(filepath.Join(n.Dir, "config.toml"), []byte(text), 0o644)
}

// onDisk tells that the daemon's files are to be where temporary files are, not on a tmpfs, which is faster: before
// Linux 6.3 a tmpfs can't be mounted id-mapped, so there would be no user namespaces.
func onDisk() bool { return os.Getenv("BERTH_TEST_FS") == "disk" }

// CDI is the directory of CDI files of the daemon under test. A test makes it and removes it.
func (n *Node) CDI() string { return filepath.Join(n.Dir, "cdi") }

// Cache is the directory of what the scripts have built and fetched.
func (n *Node) Cache() string {
	if c := os.Getenv("BERTH_CACHE"); c != "" {
		return c
	}
	return filepath.Join(n.top, ".cache")
}

func (n *Node) serveImages() error {
	at := filepath.Join(n.Dir, "registry")
	n.registry = exec.Command(filepath.Join(n.Cache(), "bin/images"), "serve", "--cache", filepath.Join(n.Cache(), "images"),
		"--dir", filepath.Join(n.Dir, "certs.d"), "--addr-file", at)
	n.registry.Stderr = os.Stderr
	if err := n.registry.Start(); err != nil {
		return fmt.Errorf("images serve (hack/images.sh builds it): %w", err)
	}
	return poll("the registry", func() error { _, err := os.Stat(at); return err })
}

// Launch starts the daemon and connects to it. It is there again after Kill.
func (n *Node) Launch() error {
	log, err := os.OpenFile(filepath.Join(n.Dir, "daemon.log"), os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	args := []string{"serve", "--config", filepath.Join(n.Dir, "config.toml"), "--root", n.Root, "--state", n.State, "--listen", n.Endpoint,
		"--cni-conf-dir", n.CNI(), "--cni-bin-dir", strings.Join([]string{n.Plugins(), filepath.Join(n.Cache(), "cni"), filepath.Join(n.top, "bin")}, ":"),
		"--registry-config", filepath.Join(n.Dir, "certs.d"), "--cdi-spec-dirs", n.CDI(), "--cgroup-driver", Driver()}
	n.daemon = exec.Command(filepath.Join(n.top, "bin/berth"), append(args, n.extra...)...)
	if n.path != "" {
		n.daemon.Env = append(os.Environ(), "PATH="+n.path)
	}
	n.daemon.Stdout, n.daemon.Stderr = log, log
	if err := n.daemon.Start(); err != nil {
		return fmt.Errorf("berth serve (make build builds it): %w", err)
	}
	if err := n.connect(); err != nil {
		return fmt.Errorf("%w\n%s", err, tail(log.Name(), 20))
	}
	return nil
}

// Pid is the daemon's process id.
func (n *Node) Pid() int { return n.daemon.Process.Pid }

// Kill ends the daemon with the signal and waits for its end. Pods stay.
func (n *Node) Kill(sig syscall.Signal) error {
	n.disconnect()
	if err := n.daemon.Process.Signal(sig); err != nil {
		return err
	}
	n.daemon.Wait() // its status is that of the signal
	return nil
}

func (n *Node) connect() error {
	ctx := context.Background()
	var err error
	if n.conn, err = grpc.NewClient(n.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(16<<20))); err != nil {
		return err
	}
	n.Raw, n.RawImages = rt.NewRuntimeServiceClient(n.conn), rt.NewImageServiceClient(n.conn)
	if err := poll("the daemon", func() error {
		ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
		defer cancel()
		_, err := n.Raw.Version(ctx, &rt.VersionRequest{})
		return err
	}); err != nil {
		return err
	}
	if n.Runtime, err = remote.NewRemoteRuntimeServiceBuilder().WithEndpoint(n.Endpoint).WithConnectionTimeout(Patience).Build(ctx); err != nil {
		return err
	}
	n.Images, err = remote.NewRemoteImageServiceBuilder().WithEndpoint(n.Endpoint).WithConnectionTimeout(Patience).Build(ctx)
	return err
}

func (n *Node) disconnect() {
	ctx := context.Background()
	if n.Runtime != nil {
		n.Runtime.Close(ctx)
		n.Images.Close(ctx)
	}
	if n.conn != nil {
		n.conn.Close()
	}
}

// Warm runs one pod with a host port, so that what is made once per node (the bridge, tables and chains) is there before
// anything is compared.
func (n *Node) Warm() error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	cfg := PodConfig("warm", n.Dir)
	cfg.PortMappings = []*rt.PortMapping{{ContainerPort: 80, HostPort: 28079}}
	id, err := n.Runtime.RunPodSandbox(ctx, cfg, "")
	if err != nil {
		return fmt.Errorf("first pod: %w\n%s", err, tail(filepath.Join(n.Dir, "daemon.log"), 20))
	}
	if err := n.Runtime.StopPodSandbox(ctx, id); err != nil {
		return err
	}
	return n.Runtime.RemovePodSandbox(ctx, id)
}

func (n *Node) stop() {
	if n.daemon != nil {
		n.Kill(syscall.SIGTERM)
	}
	if n.registry != nil {
		n.registry.Process.Kill()
		n.registry.Wait()
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent(n.Dir))
	for _, h := range append(hierarchies, "/sys/fs/cgroup"+cgroupParent(n.Dir)) {
		os.Remove(h)
		os.Remove(filepath.Dir(h))
	}
	if n.Root != "" {
		if onDisk() {
			os.RemoveAll(n.Dir)
			return
		}
		unix.Unmount(n.Dir, unix.MNT_DETACH)
		os.Remove(n.Dir)
	}
}

func poll(what string, try func() error) error {
	var err error
	for end := time.Now().Add(Patience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		if err = try(); err == nil {
			return nil
		}
	}
	return fmt.Errorf("wait for %s: %w", what, err)
}

func tail(name string, lines int) string {
	b, err := os.ReadFile(name)
	if err != nil {
		return err.Error()
	}
	l := strings.Split(strings.TrimRight(string(b), "\n"), "\n")
	l = l[max(0, len(l)-lines):]
	for i := range l {
		if len(l[i]) > 1000 { // a dump of all goroutines is one line
			l[i] = l[i][:1000] + "…"
		}
	}
	return strings.Join(l, "\n")
}

// Second starts another daemon on the same directories and returns what it said before it gave up.
func (n *Node) Second(within time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), within)
	defer cancel()
	args := append([]string{}, n.daemon.Args[1:]...)
	out, err := exec.CommandContext(ctx, n.daemon.Path, args...).CombinedOutput()
	if ctx.Err() != nil {
		return string(out), nil
	}
	return string(out), err
}

// Goroutines asks the daemon for the number of its goroutines: SIGUSR1 makes it log them.
func (n *Node) Goroutines(t *testing.T) int {
	t.Helper()
	log := filepath.Join(n.Dir, "daemon.log")
	last := func() (times, count int) {
		b, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		all := goroutines.FindAllSubmatch(b, -1)
		if len(all) > 0 {
			count, _ = strconv.Atoi(string(all[len(all)-1][1]))
		}
		return len(all), count
	}
	before, count := last()
	if err := n.daemon.Process.Signal(syscall.SIGUSR1); err != nil {
		t.Fatal(err)
	}
	Eventually(t, Patience, "the daemon tells its goroutines", func() bool {
		var now int
		now, count = last()
		return now > before
	})
	return count
}

var goroutines = regexp.MustCompile(`msg=goroutines count=(\d+)`)

// Conn is the connection to the daemon, for what no client library sends.
func (n *Node) Conn() *grpc.ClientConn { return n.conn }
