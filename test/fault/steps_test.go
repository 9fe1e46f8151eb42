package fault

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/test/bundle"
)

// broken is a cause that makes one step fail, and how it is mended.
type broken struct {
	name  string
	cause func(*node) (mend func())
	says  []string
	class error
}

// aside moves a path away and, if content is not empty, puts a file in its place.
func aside(n *node, path, content string) func() {
	n.t.Helper()
	n.must(os.Rename(path, path+".aside"))
	if content != "" {
		n.must(bundle.Executable(path, content))
	}
	return func() {
		os.Remove(path)
		n.must(os.Rename(path+".aside", path))
	}
}

func scripted(step, what string) func(*node) func() {
	return func(n *node) func() { n.set(step, what); return func() { n.set(step, "") } }
}

// Each step of a pod's making fails: the error names the step and its cause, nothing is listed and nothing left, and
// once the cause is gone the same request succeeds.
func TestPodFailsAtStep(t *testing.T) {
	t.Parallel()
	for _, b := range []broken{
		{"record", func(n *node) func() { return n.readOnly(n.root + "/pods") }, []string{"write record: ", "read-only file system"}, nil},
		{"state directory", func(n *node) func() { return n.readOnly(n.state + "/pods") }, []string{"write record: ", "read-only file system"}, nil},
		{"monitor is missing", func(n *node) func() { return aside(n, n.monitor, "") }, []string{"start monitor: ", "berth-monitor", "no such file"}, fs.ErrNotExist},
		{"monitor ends at once", func(n *node) func() { return aside(n, n.monitor, "#!/bin/true\n") }, []string{"make namespaces: ", "monitor"}, nil},
		{"namespaces can't be pinned", func(n *node) func() { return n.readOnly(n.netns) }, []string{"make namespaces: ", "pin net namespace", "read-only file system"}, nil},
		{"network is not configured", func(n *node) func() { return aside(n, n.dir+"/cni/1.conflist", "") }, []string{"attach network: "}, nil},
		{"network plugin is missing", func(n *node) func() { return aside(n, n.dir+"/bin/fakecni", "") }, []string{"attach network: ", "fakecni"}, nil},
		{"network plugin fails", scripted("ADD", "fail no addresses left"), []string{"attach network: ", "no addresses left"}, nil},
		{"network plugin talks nonsense", scripted("ADD", "junk"), []string{"attach network: "}, nil},
		{"network gives no address", scripted("ADD", "noip"), []string{"attach network: ", "no address in the result"}, nil},
		{"network plugin fails and can't clean up at first", func(n *node) func() {
			n.set("ADD", "fail no addresses left")
			n.set("DEL", "times 1 fail still busy")
			return func() { n.set("ADD", ""); n.set("DEL", "") }
		}, []string{"attach network: ", "no addresses left"}, nil},
		{"record can't be marked ready", func(n *node) func() {
			release, done := n.hang("ADD"), make(chan struct{})
			go func() {
				defer close(done)
				n.reached("ADD", 1)
				n.must(os.Mkdir(glob(n.root + "/pods/*")[0]+"/pod.json.tmp", 0o755))
				release()
			}()
			return func() { <-done }
		}, []string{"mark ready: ", "pod.json"}, nil},
	} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			mend := b.cause(n)
			id, err := n.Run(t.Context(), n.pod("a"), "")
			n.says(err, b.class, append(b.says, "run pod fault/a/u-a/0: ")...)
			if id != "" {
				t.Errorf("id %q", id)
			}
			mend()
			n.empty()
			n.nothingLeft()
			p := n.run("a")
			n.start(p, "main", "sleep")
		})
	}
}

// A cgroup that can't be made needs another request to succeed: the name is free.
func TestPodCgroupFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cfg := n.pod("a")
	cfg.Linux.CgroupParent += "/" + strings.Repeat(strings.Repeat("x", 200)+"/", 25) + "x"
	_, err := n.Run(t.Context(), cfg, "")
	n.says(err, nil, "make pod cgroup: ", "file name too long")
	n.empty()
	n.nothingLeft()
	n.run("a")
}

// A sysctl that the kernel does not have is refused by the process that makes the namespaces.
func TestPodSysctlFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cfg := n.pod("a")
	cfg.Linux.Sysctls = map[string]string{"net.ipv4.no_such_thing": "1"}
	_, err := n.Run(t.Context(), cfg, "")
	n.says(err, nil, "make namespaces: ", "no_such_thing")
	n.empty()
	n.nothingLeft()
	n.run("a")
}

// A pod can be stopped and removed while the disk is full: that is how space is made.
func TestRemoveOnFullDisk(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	undo := n.room(64)
	defer undo()
	p := n.run("a")
	c := n.start(p, "main", "sleep")
	n.must(os.WriteFile(n.root+"/pods/full", make([]byte, 4096), 0o600))
	if _, err := p.Create(t.Context(), n.container("more", "sleep")); err == nil {
		for i := 0; err == nil; i++ {
			err = os.WriteFile(fmt.Sprintf("%s/pods/full%d", n.root, i), make([]byte, 4096), 0o600)
		}
	}
	n.must(c.Stop(t.Context(), 0))
	n.must(p.Stop(t.Context()))
	if s, err := p.Status(false); err != nil || s.Status.State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Errorf("status: %v, %v", s, err)
	}
	n.must(p.Remove(t.Context()))
	n.empty()
}

// A full disk at any of the first writes.
func TestPodFullDisk(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	undo := n.room(4)
	n.must(os.WriteFile(n.root+"/pods/full", make([]byte, 4096), 0o600))
	_, err := n.Run(t.Context(), n.pod("a"), "")
	n.says(err, nil, "no space left on device")
	undo()
	n.empty()
	n.nothingLeft()
	n.run("a")
}

// What can't be given back after a failure stays visible as not ready, and goes when it is removed.
func TestPodCleanUpFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	n.set("ADD", "fail no addresses left")
	n.set("DEL", "fail still busy")
	_, err := n.Run(t.Context(), n.pod("a"), "")
	n.says(err, nil, "attach network: ", "no addresses left")
	pods := n.ListPods(nil)
	if len(pods) != 1 || pods[0].State != rt.PodSandboxState_SANDBOX_NOTREADY {
		t.Fatalf("listed: %v", pods)
	}
	p, err := n.Pod(pods[0].Id)
	n.must(err)
	n.says(p.Stop(t.Context()), nil, "detach network", "still busy")
	n.says(p.Remove(t.Context()), nil, "detach network", "still busy")
	n.set("DEL", "")
	n.must(p.Remove(t.Context()))
	n.empty()
	n.nothingLeft()
	n.set("ADD", "")
	n.run("a")
}

// empty checks that nothing is listed.
func (n *node) empty() {
	n.t.Helper()
	if pods, ctrs := n.ListPods(nil), n.ListContainers(nil); len(pods)+len(ctrs) > 0 {
		n.t.Errorf("listed: %v %v", pods, ctrs)
	}
}

// Each step of a container's making fails.
func TestContainerFailsAtStep(t *testing.T) {
	t.Parallel()
	for _, b := range []broken{
		{"image", func(n *node) func() {
			return func() {
				_, err := the.images.Pull(n.t.Context(), image.PullRequest{Ref: n.late()})
				n.must(err)
			}
		}, []string{"image ", "late-"}, fs.ErrNotExist},
		{"seccomp profile", func(n *node) func() {
			return func() {
				n.must(os.WriteFile(n.dir+"/seccomp.json", []byte(`{"defaultAction":"SCMP_ACT_ALLOW"}`), 0o644))
			}
		}, []string{"seccomp profile: ", "no such file"}, nil},
		{"record", func(n *node) func() {
			name := glob(n.root + "/pods/*")[0] + "/c"
			n.must(os.WriteFile(name, nil, 0o644))
			return func() { n.must(os.Remove(name)) }
		}, []string{"write record: ", "not a directory"}, nil},
		{"runtime is missing", func(n *node) func() { return aside(n, n.runtime, "") }, []string{"fake create: ", "no such file"}, nil},
		{"runtime fails", scripted("create", "fail cannot do that"), []string{"fake create: ", "cannot do that"}, nil},
		{"runtime dies", scripted("create", "die"), []string{"fake create: ", "signal"}, nil},
		{"runtime writes a bad pid file", scripted("create", "junk"), []string{"fake create: ", "pid"}, nil},
		{"runtime fails after all is made", scripted("created", "fail cannot do that"), []string{"fake create: ", "cannot do that"}, nil},
		{"runtime dies after all is made", scripted("created", "die"), []string{"fake create: "}, nil},
		{"record can't be marked created", func(n *node) func() {
			release, done := n.hang("create"), make(chan struct{})
			go func() {
				defer close(done)
				n.reached("create", 1)
				n.must(os.Mkdir(glob(n.root + "/pods/*/c/*")[0]+"/container.json.tmp", 0o755))
				release()
			}()
			return func() { <-done }
		}, []string{"mark created: ", "container.json"}, nil},
	} {
		t.Run(b.name, func(t *testing.T) {
			t.Parallel()
			n := newNode(t)
			p := n.run("a")
			cfg := n.container("main", "sleep")
			switch b.name {
			case "image":
				cfg.Image.Image = n.late()
			case "seccomp profile":
				cfg.Linux.SecurityContext.Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost, LocalhostRef: n.dir + "/seccomp.json"}
			}
			before := n.left()
			mend := b.cause(n)
			_, err := p.Create(t.Context(), cfg)
			n.says(err, b.class, append(b.says, "create container main/0 in pod "+p.ID()[:12]+": ")...)
			mend()
			if ctrs := n.ListContainers(nil); len(ctrs) > 0 {
				t.Errorf("listed: %v", ctrs)
			}
			n.only(before)
			if dirs := glob(n.root + "/pods/*/c/*"); len(dirs) > 0 {
				t.Errorf("left: %v", dirs)
			}
			id, err := p.Create(t.Context(), cfg)
			n.must(err)
			c, err := n.Container(id)
			n.must(err)
			n.must(c.Start(t.Context()))
		})
	}
}

// only waits until there is no more than before.
func (l *place) only(before []string) {
	l.t.Helper()
	var more []string
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		more = slices.DeleteFunc(l.left(), func(s string) bool { return slices.Contains(before, s) })
		if len(more) == 0 {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	l.t.Errorf("left behind:\n\t%s", strings.Join(more, "\n\t"))
}

// A container that can neither be made nor cleared away is cleared with its pod at the latest.
func TestContainerCleanUpFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	cfg := n.pod("a")
	cfg.Linux.CgroupParent = n.parent + "-given"
	for _, h := range glob("/sys/fs/cgroup/*/cgroup.procs") {
		os.Mkdir(filepath.Dir(h)+cfg.Linux.CgroupParent, 0o755) // kubelet's: the pod must not remove it
	}
	defer func() {
		for _, g := range append(glob("/sys/fs/cgroup/*"+cfg.Linux.CgroupParent), glob("/sys/fs/cgroup"+cfg.Linux.CgroupParent)...) {
			if below, _ := filepath.Glob(g + "/" + strings.Repeat("[0-9a-f]", 64)); len(below) > 0 {
				t.Errorf("left: %v", below)
			}
			removeTree(g)
		}
	}()
	p := n.runConfig(cfg)
	n.set("created", "fail cannot do that")
	n.set("delete", "times 1 fail not now")
	_, err := p.Create(t.Context(), n.container("main", "sleep"))
	n.says(err, nil, "cannot do that")
	n.set("created", "")
	n.must(p.Remove(t.Context()))
}

// A command that can't be started leaves a container that has exited, as users know it.
func TestStartFails(t *testing.T) {
	t.Parallel()
	n := newNode(t)
	p := n.run("a")
	c := n.create(p, "main", "sleep")
	n.set("start", "fail exec: no such command")
	n.says(c.Start(t.Context()), nil, "start container "+c.ID()[:12], "no such command")
	n.set("start", "")
	s := n.status(c)
	if s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode != 128 || s.Reason != "StartError" || !strings.Contains(s.Message, "no such command") || s.FinishedAt == 0 {
		t.Errorf("status: %v", s)
	}
	n.must(c.Remove(t.Context()))
	n.start(p, "main", "sleep")
}

// late is an image that the test pulls when it is missed.
func (l *place) late() string { return the.registry.ref("late-" + filepath.Base(l.dir)) }
