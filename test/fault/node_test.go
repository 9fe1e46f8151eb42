package fault

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/sandbox"
	"github.com/berth-runtime/berth/test/fault/script"
)

// place is where one test's pods live: directories, programs, script, cgroup. Nothing of it is shared.
type place struct {
	t       *testing.T
	dir     string
	script  script.Dir
	root    string
	state   string
	netns   string
	parent  string // cgroup above the test's pods
	monitor string // path of the monitor binary, the test's own link
	runtime string // likewise
	log     *logBuffer
	seen    map[string]bool // ids of pods, see pins
}

// machineNetns is where a daemon pins network namespaces.
const machineNetns = "/run/netns"

// patience is for what has to come on a machine with much else to do.
const patience = time.Minute

var serial atomic.Int64

func newPlace(t *testing.T) *place {
	t.Helper()
	if the == nil {
		t.Skip(reason)
	}
	name := fmt.Sprintf("t%d", serial.Add(1))
	l := &place{t: t, dir: filepath.Join(the.dir, name), parent: "/berth-" + filepath.Base(the.dir) + "-" + name, log: new(logBuffer), seen: map[string]bool{}}
	l.script = script.Dir(filepath.Join(l.dir, "script"))
	l.root, l.state, l.netns = filepath.Join(l.dir, "root"), filepath.Join(l.dir, "state"), filepath.Join(l.dir, "netns")
	l.monitor, l.runtime = filepath.Join(l.dir, "bin/berth-monitor"), filepath.Join(l.dir, "bin/fakeoci")
	for _, d := range []string{string(l.script), l.root, l.state, l.netns, filepath.Join(l.dir, "cni"), filepath.Join(l.dir, "bin"), filepath.Join(l.dir, "logs")} {
		l.must(os.MkdirAll(d, 0o755))
	}
	for _, b := range []string{"berth-monitor", "fakeoci", "fakecni"} {
		l.must(os.Link(filepath.Join(the.bin, b), filepath.Join(l.dir, "bin", b)))
	}
	conf := fmt.Sprintf(`{"cniVersion":"1.1.0","name":"fault","plugins":[{"type":"fakecni","script":%q}]}`, l.script)
	l.must(os.WriteFile(filepath.Join(l.dir, "cni/1.conflist"), []byte(conf), 0o644))
	t.Cleanup(l.sweep)
	return l
}

func (l *place) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *place) set(step, what string) {
	l.t.Helper()
	l.must(l.script.Set(step, what))
}

// hang holds a step open until the returned function is called, at the latest at the end of the test.
func (l *place) hang(step string) (release func()) {
	l.t.Helper()
	l.set(step, "hang")
	release = func() { l.script.Set(step, "") }
	l.t.Cleanup(release)
	return release
}

// reached waits until a step was begun n times.
func (l *place) reached(step string, n int) {
	l.t.Helper()
	l.eventually(fmt.Sprintf("%s is called for the %d. time", step, n), func() bool { return l.script.Calls(step) >= n })
}

func (l *place) eventually(what string, ok func() bool) {
	l.t.Helper()
	for end := time.Now().Add(patience); !ok(); time.Sleep(3 * time.Millisecond) {
		if time.Now().After(end) {
			l.t.Fatalf("waited in vain: %s", what)
		}
	}
}

// left lists what there is of the test's pods.
func (l *place) left() []string {
	var out []string
	for _, p := range l.processes() {
		out = append(out, fmt.Sprintf("process %d: %s", p, cmdline(p)))
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	l.must(err)
	for m := range strings.Lines(string(mounts)) {
		// A daemon keeps one mount of its own; what it mounts below counts.
		if strings.Contains(m, " "+l.dir+"/") && !strings.Contains(m, " "+l.state+"/roots ") {
			out = append(out, "mount: "+m)
		}
	}
	for _, pattern := range []string{
		l.root + "/pods/*", l.root + "/net/*.json", l.state + "/pods/*", l.state + "/oci/*/*", string(l.script) + "/leases/*",
		"/sys/fs/cgroup/*" + l.parent + "*", "/sys/fs/cgroup" + l.parent + "*",
	} {
		names, err := filepath.Glob(pattern)
		l.must(err)
		out = append(out, names...)
	}
	out = append(out, l.pins()...)
	slices.Sort(out)
	return out
}

// pins are the pinned network namespaces of the test's pods: those in its directory or, where that is the machine's, those of
// pods that were seen.
func (l *place) pins() []string {
	if l.netns != machineNetns {
		return glob(l.netns + "/*")
	}
	var out []string
	for id := range l.seen {
		out = append(out, glob(l.netns+"/berth-"+id)...)
	}
	return out
}

// look notes the pods there are.
func (l *place) look() {
	for _, p := range append(glob(l.root+"/pods/*"), glob(l.state+"/pods/*")...) {
		l.seen[filepath.Base(p)] = true
	}
}

// processes are those that work in the test's directories or name them, and their children's children.
func (l *place) processes() []int {
	var out []int
	entries, err := filepath.Glob("/proc/[0-9]*")
	l.must(err)
	for _, e := range entries {
		var pid int
		if _, err := fmt.Sscanf(filepath.Base(e), "%d", &pid); err != nil || pid == os.Getpid() || strings.HasPrefix(cmdline(pid), filepath.Join(the.bin, "berth")+" serve") {
			continue
		}
		cwd, _ := os.Readlink(e + "/cwd")
		if strings.HasPrefix(cwd, l.dir+"/") || strings.Contains(cmdline(pid), l.dir+"/") {
			out = append(out, pid)
		}
	}
	return out
}

func cmdline(pid int) string {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.ReplaceAll(string(b), "\x00", " ")
}

// nothingLeft waits a little for what is given back in the background.
func (l *place) nothingLeft() {
	l.t.Helper()
	var left []string
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if left = l.left(); len(left) == 0 {
			return
		}
		if time.Now().After(end) {
			l.t.Errorf("left behind:\n\t%s", strings.Join(left, "\n\t"))
			return
		}
	}
}

// sweep looks for what the test left, and removes it by force.
func (l *place) sweep() {
	if !l.t.Failed() {
		l.nothingLeft()
	}
	if l.t.Failed() {
		l.t.Logf("log:\n%s", l.log)
	}
	for _, pid := range l.processes() {
		syscall.Kill(pid, syscall.SIGKILL)
	}
	for _, p := range append(append(l.pins(), glob(l.state+"/pods/*/ns/*")...), l.state+"/roots") {
		unix.Unmount(p, unix.MNT_DETACH)
	}
	for _, g := range append(glob("/sys/fs/cgroup/*"+l.parent+"*"), glob("/sys/fs/cgroup"+l.parent+"*")...) {
		removeTree(g)
	}
	os.RemoveAll(l.dir)
}

func glob(pattern string) []string {
	names, _ := filepath.Glob(pattern)
	return names
}

// removeTree removes the directories of a cgroup, deepest first.
func removeTree(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		if e.IsDir() {
			removeTree(filepath.Join(dir, e.Name()))
		}
	}
	// A process that was killed is in its group until it is gone.
	for end := time.Now().Add(patience); errors.Is(os.Remove(dir), unix.EBUSY) && time.Now().Before(end); {
		time.Sleep(5 * time.Millisecond)
	}
}

// pod is a request for a pod of that name.
func (l *place) pod(name string) *rt.PodSandboxConfig {
	return &rt.PodSandboxConfig{
		Metadata: &rt.PodSandboxMetadata{Name: name, Uid: "u-" + name, Namespace: "fault"}, LogDirectory: filepath.Join(l.dir, "logs"),
		Linux: &rt.LinuxPodSandboxConfig{CgroupParent: l.parent + "-" + name, SecurityContext: &rt.LinuxSandboxSecurityContext{
			NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}}},
	}
}

// container is a request for a container that runs a payload of fakeoci.
func (l *place) container(name string, cmd ...string) *rt.ContainerConfig {
	return &rt.ContainerConfig{
		Metadata: &rt.ContainerMetadata{Name: name}, Image: &rt.ImageSpec{Image: the.registry.ref("base")}, Command: cmd, LogPath: name + ".log",
		Linux: &rt.LinuxContainerConfig{SecurityContext: &rt.LinuxContainerSecurityContext{
			NamespaceOptions: &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}}},
	}
}

// node is a place with a manager in this process.
type node struct {
	*place
	*sandbox.Manager
	network *netplugin.Manager
	older   bool // as on a kernel that can't clone detached mounts
}

func newNode(t *testing.T) *node {
	t.Helper()
	return openNode(t, &node{})
}

func openNode(t *testing.T, n *node) *node {
	t.Helper()
	n.place = newPlace(t)
	n.open()
	t.Cleanup(n.close)
	return n
}

func (n *node) open() {
	n.t.Helper()
	var err error
	n.network, err = netplugin.New(netplugin.Options{ConfDir: filepath.Join(n.dir, "cni"), BinDirs: []string{filepath.Join(n.dir, "bin")}, CacheDir: filepath.Join(n.root, "net")})
	n.must(err)
	n.Manager, err = sandbox.Open(n.t.Context(), sandbox.Options{
		Root: n.root, State: n.state, NetnsDir: n.netns, Images: the.images, Network: n.network, MonitorBin: n.monitor,
		Handlers:  []oci.Handler{{Name: "fake", Path: n.runtime, Root: filepath.Join(n.state, "oci/fake"), Args: []string{"--script", string(n.script)}}},
		Log:       slog.New(slog.NewTextHandler(n.log, nil)),
		AttachShm: n.older,
	})
	n.must(err)
}

// close removes the pods there are and ends the manager.
func (n *node) close() {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, p := range n.ListPods(nil) {
		if p, err := n.Pod(p.Id); err == nil {
			if err := p.Remove(ctx); err != nil {
				n.t.Errorf("remove at the end: %v", err)
			}
		}
	}
	if err := n.Close(ctx); err != nil {
		n.t.Errorf("close: %v", err)
	}
}

// run makes a pod that has to work.
func (n *node) run(name string) *sandbox.Pod {
	n.t.Helper()
	return n.runConfig(n.pod(name))
}

// pidModes are what runMode takes.
var pidModes = []rt.NamespaceMode{rt.NamespaceMode_CONTAINER, rt.NamespaceMode_POD}

// runMode runs a pod whose containers have PID namespaces of their own, or one together.
func (n *node) runMode(mode rt.NamespaceMode) *sandbox.Pod {
	n.t.Helper()
	cfg := n.pod("a")
	cfg.Linux.SecurityContext.NamespaceOptions.Pid = mode
	return n.runConfig(cfg)
}

func (n *node) runConfig(cfg *rt.PodSandboxConfig) *sandbox.Pod {
	n.t.Helper()
	id, err := n.Run(n.t.Context(), cfg, "")
	n.must(err)
	p, err := n.Pod(id)
	n.must(err)
	return p
}

// start makes a container that has to work.
func (n *node) start(p *sandbox.Pod, name string, cmd ...string) *sandbox.Container {
	n.t.Helper()
	c := n.create(p, name, cmd...)
	n.must(c.Start(n.t.Context()))
	return c
}

func (n *node) create(p *sandbox.Pod, name string, cmd ...string) *sandbox.Container {
	n.t.Helper()
	id, err := p.Create(n.t.Context(), n.container(name, cmd...))
	n.must(err)
	c, err := n.Container(id)
	n.must(err)
	return c
}

func (n *node) status(c *sandbox.Container) *rt.ContainerStatus {
	n.t.Helper()
	s, err := c.Status(false)
	n.must(err)
	return s.Status
}

// exited waits for the container's end.
func (n *node) exited(c *sandbox.Container) *rt.ContainerStatus {
	n.t.Helper()
	n.eventually("the container ends", func() bool { return n.status(c).State == rt.ContainerState_CONTAINER_EXITED })
	return n.status(c)
}

// says checks an error's text and class.
func (l *place) says(err, class error, texts ...string) {
	l.t.Helper()
	if err == nil {
		l.t.Errorf("no error; want one that says %q", texts)
		return
	}
	for _, text := range texts {
		if !strings.Contains(err.Error(), text) {
			l.t.Errorf("error %q does not say %q", err, text)
		}
	}
	if class != nil && !errors.Is(err, class) {
		l.t.Errorf("error %q is not of class %v", err, class)
	}
}

// room bounds the space for the pods' records, in KiB; the mount is undone by the returned function.
func (n *node) room(size int) (undo func()) {
	n.t.Helper()
	pods := filepath.Join(n.root, "pods")
	n.must(unix.Mount("fault", pods, "tmpfs", 0, fmt.Sprintf("size=%dk", size)))
	return func() { n.must(unix.Unmount(pods, unix.MNT_DETACH)) }
}

// readOnly makes a directory one in which nothing can be made or changed.
func (n *node) readOnly(dir string) (undo func()) {
	n.t.Helper()
	n.must(unix.Mount(dir, dir, "", unix.MS_BIND, ""))
	n.must(unix.Mount("", dir, "", unix.MS_REMOUNT|unix.MS_BIND|unix.MS_RDONLY, ""))
	return func() { n.must(unix.Unmount(dir, unix.MNT_DETACH)) }
}
