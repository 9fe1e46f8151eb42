// Package cluster runs a Kubernetes node on Berth, natively and for tests: etcd, API server, controller manager,
// scheduler and kubelet (the program that test/kubelet/kube makes), Berth with its built-in network, and a registry of
// test images, all in mount, network and PID namespaces of their own (hack/testns.sh), below one tmpfs.
//
// A test package has
//
//	func TestMain(m *testing.M) { os.Exit(cluster.Main(m)) }
//
// and its tests begin with cluster.Get(t). What speaks to the cluster is client-go, or kubectl where that is what is
// tested. Nothing here knows Berth's packages: the runtime is a program with a socket.
package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	criapi "k8s.io/cri-api/pkg/apis"
)

// NodeName is the node's name, NodeIP its address in the cluster's network namespace, where it is all there is.
const (
	NodeName = "berth-node"
	NodeIP   = "172.31.77.10"
)

// Cluster is one node and its control plane.
type Cluster struct {
	Client     kubernetes.Interface
	Rest       *rest.Config
	Runtime    criapi.RuntimeService // kubelet's own client, to look behind its back
	Images     criapi.ImageManagerService
	Kubeconfig string
	Manifests  string // kubelet's directory of static pods
	Dir        string

	top      string
	cgroup   string // the node's part of every hierarchy: /NAME
	programs []*program
}

// program is a process of the cluster that can be ended and started again.
type program struct {
	name string
	args []string
	log  string
	cmd  *exec.Cmd
}

var (
	the    *Cluster
	reason string
)

// Main runs the tests of a package in a cluster.
func Main(m *testing.M) int {
	top, err := project()
	if err != nil {
		return complain(err)
	}
	c := &Cluster{top: top}
	switch {
	case os.Geteuid() != 0:
		reason = "needs root: a node makes namespaces, mounts and cgroups"
	case !exists(c.Tool("kube/kubelet")):
		reason = "needs Kubernetes' programs: hack/kubelet.sh builds them"
	}
	if reason != "" {
		if os.Getenv("BERTH_KUBELET") == "required" {
			return complain(errors.New(reason))
		}
		return m.Run()
	}
	if os.Getenv("BERTH_IN_TESTNS") == "" {
		return complain(syscall.Exec(filepath.Join(top, "hack/testns.sh"), append([]string{"testns.sh"}, os.Args...), os.Environ()))
	}
	err = c.start()
	defer c.stop()
	if err != nil {
		return complain(err)
	}
	the = c
	return m.Run()
}

// Get returns the cluster. When the test fails, the ends of all logs are shown.
func Get(t *testing.T) *Cluster {
	t.Helper()
	if the == nil {
		t.Skip(reason)
	}
	return the
}

func complain(err error) int {
	fmt.Fprintln(os.Stderr, "cluster:", err)
	return 1
}

func exists(name string) bool {
	_, err := os.Stat(name)
	return err == nil
}

func project() (string, error) {
	top, err := filepath.Abs(".")
	for ; err == nil && !exists(filepath.Join(top, "hack/testns.sh")); top = filepath.Dir(top) {
		if top == "/" {
			return "", fmt.Errorf("hack/testns.sh: %w", fs.ErrNotExist)
		}
	}
	return top, err
}

// Tool is a file that hack/ scripts have built.
func (c *Cluster) Tool(name string) string {
	cache := os.Getenv("BERTH_CACHE")
	if cache == "" {
		cache = filepath.Join(c.top, ".cache")
	}
	return filepath.Join(cache, name)
}

func (c *Cluster) start() error {
	var err error
	if c.Dir, err = os.MkdirTemp("", "berth-kube-"); err != nil {
		return err
	}
	c.cgroup = "/" + filepath.Base(c.Dir)
	for _, step := range []struct {
		what string
		do   func() error
	}{
		{"prepare the host", c.host},
		{"registry", c.registry},
		{"control plane", c.controlPlane},
		{"runtime", c.runtime},
		{"kubelet", c.kubelet},
		{"node", c.Ready},
	} {
		begin := time.Now()
		if err := step.do(); err != nil {
			return fmt.Errorf("%s: %w\n%s", step.what, err, c.logs(20))
		}
		fmt.Fprintf(os.Stderr, "cluster: %s: %.1f s\n", step.what, time.Since(begin).Seconds())
	}
	return nil
}

// launch starts a program, whose output goes to DIR/NAME.log.
func (c *Cluster) launch(name, path string, args ...string) error {
	p := &program{name: name, args: append([]string{path}, args...), log: filepath.Join(c.Dir, name+".log")}
	c.programs = append(c.programs, p)
	return p.start()
}

func (p *program) start() error {
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	defer log.Close()
	p.cmd = exec.Command(p.args[0], p.args[1:]...)
	p.cmd.Stdout, p.cmd.Stderr = log, log
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", p.name, err)
	}
	return nil
}

// end signals the program and waits for it; one that does not end by itself is killed.
func (p *program) end(sig syscall.Signal) {
	if p.cmd == nil || p.cmd.Process == nil {
		return
	}
	done := make(chan struct{})
	go func() { defer close(done); p.cmd.Wait() }() // its status is the signal's
	p.cmd.Process.Signal(sig)                       // it may have ended already
	select {
	case <-done:
	case <-time.After(20 * time.Second):
		p.cmd.Process.Kill() // likewise
		<-done
	}
	p.cmd = nil
}

func (c *Cluster) program(name string) *program {
	for _, p := range c.programs {
		if p.name == name {
			return p
		}
	}
	return &program{name: name}
}

// Restart ends berth or kubelet with the signal and starts it again.
func (c *Cluster) Restart(name string, sig syscall.Signal) error {
	p := c.program(name)
	p.end(sig)
	return p.start()
}

// logs is the end of every program's log.
func (c *Cluster) logs(lines int) string {
	var b strings.Builder
	for _, p := range c.programs {
		raw, err := os.ReadFile(p.log)
		if err != nil {
			continue
		}
		l := strings.Split(strings.TrimRight(string(raw), "\n"), "\n")
		fmt.Fprintf(&b, "-- %s\n%s\n", p.name, strings.Join(l[max(0, len(l)-lines):], "\n"))
	}
	return b.String()
}

// stop ends everything. The namespaces take the rest with them; cgroups have none.
func (c *Cluster) stop() {
	if keep := os.Getenv("BERTH_KUBELET_LOGS"); keep != "" {
		for _, p := range c.programs {
			exec.Command("cp", p.log, keep).Run() // for people; nothing depends on it
		}
	}
	c.program("kubelet").end(syscall.SIGKILL)
	c.removePods()
	// The API server lingers for minutes when etcd goes first.
	for _, name := range []string{"berth", "kube-scheduler", "kube-controller-manager"} {
		c.program(name).end(syscall.SIGTERM)
	}
	for _, name := range []string{"kube-apiserver", "etcd", "registry"} {
		c.program(name).end(syscall.SIGKILL)
	}
	removeCgroups(c.cgroup)
	unix.Unmount(c.Dir, unix.MNT_DETACH) // gone with the namespace in any case
	os.Remove(c.Dir)                     // empty below the mount
}

// removePods stops and removes what kubelet has left running.
func (c *Cluster) removePods() {
	if c.Runtime == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	pods, err := c.Runtime.ListPodSandbox(ctx, nil)
	if err != nil {
		return
	}
	for _, p := range pods {
		c.Runtime.StopPodSandbox(ctx, p.Id)   // what stays is told by the leak check
		c.Runtime.RemovePodSandbox(ctx, p.Id) // likewise
	}
}

// Poll tries until it works or the time is up.
func Poll(ctx context.Context, within time.Duration, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		err := try(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("not within %s: %w", within, err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}
