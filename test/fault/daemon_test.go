package fault

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/backoff"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// daemon is a place with a daemon of its own, a process that can be killed and started again.
type daemon struct {
	*place
	args   []string // more of its own
	cmd    *exec.Cmd
	conn   *grpc.ClientConn
	cri    rt.RuntimeServiceClient
	images rt.ImageServiceClient
}

func newDaemon(t *testing.T) *daemon {
	t.Helper()
	d := &daemon{place: newPlace(t)}
	d.netns = machineNetns
	conf := fmt.Sprintf("[handlers.fake]\npath = %q\nargs = [\"--script\", %q]\n", d.runtime, d.script)
	d.must(os.WriteFile(d.dir+"/config.toml", []byte(conf), 0o644))
	t.Cleanup(d.end)
	d.launch()
	_, err := d.images.PullImage(t.Context(), &rt.PullImageRequest{Image: &rt.ImageSpec{Image: the.registry.ref("base")}})
	d.must(err)
	return d
}

// launch starts the daemon and returns when it answers.
func (d *daemon) launch() {
	d.t.Helper()
	d.cmd = exec.Command(filepath.Join(the.bin, "berth"), "serve", "--config", d.dir+"/config.toml", "--root", d.root, "--state", d.state,
		"--monitor", d.monitor, "--oci", d.runtime, "--cni-conf-dir", d.dir+"/cni", "--cni-bin-dir", d.dir+"/bin", "--cgroup-driver", "cgroupfs", "--registry-config", d.dir+"/certs.d")
	d.cmd.Args = append(d.cmd.Args, d.args...)
	d.cmd.Stdout, d.cmd.Stderr = d.log, d.log
	// A process that is given the daemon's log would keep Wait from returning.
	d.cmd.WaitDelay = time.Second
	d.must(d.cmd.Start())
	var err error
	d.conn, err = grpc.NewClient("unix://"+d.state+"/berth.sock", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithConnectParams(grpc.ConnectParams{MinConnectTimeout: 5 * time.Second, Backoff: backoff.Config{BaseDelay: 5 * time.Millisecond, Multiplier: 1, MaxDelay: 20 * time.Millisecond}}))
	d.must(err)
	d.cri, d.images = rt.NewRuntimeServiceClient(d.conn), rt.NewImageServiceClient(d.conn)
	ctx, cancel := context.WithTimeout(d.t.Context(), time.Minute)
	defer cancel()
	if _, err = d.cri.Version(ctx, &rt.VersionRequest{}, grpc.WaitForReady(true)); err != nil {
		d.t.Fatalf("the daemon does not answer: %v\n%s", err, d.log)
	}
}

// kill ends the daemon by a signal and waits for its end.
func (d *daemon) kill(sig syscall.Signal) {
	d.look()
	d.cmd.Process.Signal(sig)
	d.cmd.Wait() // its status is that of the signal
	d.conn.Close()
	d.look()
}

// end removes what is listed, so that whatever is left after it is a leak.
func (d *daemon) end() {
	if d.conn == nil {
		return
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if pods, err := d.cri.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{}); err == nil {
		for _, p := range pods.Items {
			if _, err := d.cri.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: p.Id}); err != nil {
				d.t.Errorf("remove at the end: %v", err)
			}
		}
	}
	if !d.t.Failed() {
		d.nothingLeft() // before the daemon ends: what it does in the background belongs to it
	}
	d.kill(syscall.SIGTERM)
}

func (d *daemon) pods() []*rt.PodSandbox {
	d.t.Helper()
	r, err := d.cri.ListPodSandbox(d.t.Context(), &rt.ListPodSandboxRequest{})
	d.must(err)
	return r.Items
}

func (d *daemon) containers() []*rt.Container {
	d.t.Helper()
	r, err := d.cri.ListContainers(d.t.Context(), &rt.ListContainersRequest{})
	d.must(err)
	return r.Containers
}

func (d *daemon) status(id string) *rt.ContainerStatus {
	d.t.Helper()
	r, err := d.cri.ContainerStatus(d.t.Context(), &rt.ContainerStatusRequest{ContainerId: id})
	d.must(err)
	return r.Status
}

// start runs a container in a pod.
func (d *daemon) start(pod, name string, cmd ...string) string {
	d.t.Helper()
	r, err := d.cri.CreateContainer(d.t.Context(), &rt.CreateContainerRequest{PodSandboxId: pod, Config: d.container(name, cmd...), SandboxConfig: d.pod("a")})
	d.must(err)
	_, err = d.cri.StartContainer(d.t.Context(), &rt.StartContainerRequest{ContainerId: r.ContainerId})
	d.must(err)
	return r.ContainerId
}

func (d *daemon) run() string {
	d.t.Helper()
	r, err := d.cri.RunPodSandbox(d.t.Context(), &rt.RunPodSandboxRequest{Config: d.pod("a"), RuntimeHandler: "fake"})
	d.must(err)
	return r.PodSandboxId
}

// walk takes a pod with one container through its whole life. It takes up what it finds, as kubelet does, and stops at the
// first error: walked again after a restart it has to succeed.
func (d *daemon) walk(ctx context.Context) error {
	pod, err := d.walkPod(ctx)
	if err != nil || pod == "" {
		return err
	}
	id, err := d.walkContainer(ctx, pod)
	if err != nil {
		return err
	}
	if id != "" {
		r, err := d.cri.ExecSync(ctx, &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"say", "here"}, Timeout: 60})
		if err != nil {
			return err
		}
		if string(r.Stdout) != "here" {
			return fmt.Errorf("exec said %q", r.Stdout)
		}
		if _, err := d.cri.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id, Timeout: 60}); err != nil {
			return err
		}
		s, err := d.cri.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: id})
		if err != nil {
			return err
		}
		if s.Status.ExitCode != 143 {
			return fmt.Errorf("exit code %d after SIGTERM: %s", s.Status.ExitCode, s.Status.Message)
		}
		if _, err := d.cri.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: id}); err != nil {
			return err
		}
	}
	if _, err := d.cri.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: pod}); err != nil {
		return err
	}
	_, err = d.cri.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: pod})
	return err
}

// walkPod returns a ready pod, or "" if there was one that had been stopped and is now removed.
func (d *daemon) walkPod(ctx context.Context) (string, error) {
	list, err := d.cri.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{})
	if err != nil {
		return "", err
	}
	if len(list.Items) > 1 {
		return "", fmt.Errorf("pods: %v", list.Items)
	}
	for _, p := range list.Items {
		if p.State == rt.PodSandboxState_SANDBOX_NOTREADY {
			_, err := d.cri.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: p.Id})
			return "", err
		}
	}
	r, err := d.cri.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: d.pod("a"), RuntimeHandler: "fake"})
	if err == nil && len(list.Items) == 1 && r.PodSandboxId != list.Items[0].Id {
		return "", fmt.Errorf("pod %s is another than %s", r.PodSandboxId, list.Items[0].Id)
	}
	return r.GetPodSandboxId(), err
}

// walkContainer returns a running container that writes its log, or "" if the one there was had ended.
func (d *daemon) walkContainer(ctx context.Context, pod string) (string, error) {
	r, err := d.cri.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: pod, Config: d.container("main", "ticks"), SandboxConfig: d.pod("a")})
	id := r.GetContainerId()
	if status.Code(err) == codes.AlreadyExists {
		list, lerr := d.cri.ListContainers(ctx, &rt.ListContainersRequest{})
		if lerr != nil {
			return "", lerr
		}
		if len(list.Containers) != 1 {
			return "", fmt.Errorf("%w, and there are %v", err, list.Containers)
		}
		id, err = list.Containers[0].Id, nil
	}
	if err != nil {
		return "", err
	}
	s, err := d.cri.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: id})
	if err != nil {
		return "", err
	}
	switch s.Status.State {
	case rt.ContainerState_CONTAINER_CREATED:
		if _, err := d.cri.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: id}); err != nil {
			return "", err
		}
	case rt.ContainerState_CONTAINER_EXITED:
		if s.Status.ExitCode != 143 && s.Status.ExitCode != 137 {
			return "", fmt.Errorf("ended by itself: %v", s.Status)
		}
		_, err := d.cri.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: id})
		return "", err
	}
	return id, d.logGrows(ctx)
}

func (d *daemon) logGrows(ctx context.Context) error {
	size := func() int64 {
		st, err := os.Stat(d.dir + "/logs/main.log")
		if err != nil {
			return 0
		}
		return st.Size()
	}
	before := size()
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		if size() > before {
			return nil
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		time.Sleep(5 * time.Millisecond)
	}
	return fmt.Errorf("the log stays at %d bytes", before)
}

// single checks that nothing runs that is not listed, hence nothing twice. What was half made goes in the background.
func (d *daemon) single() {
	d.t.Helper()
	d.eventually("nothing runs that is not listed", func() bool {
		monitors, inits := 0, 0
		for _, pid := range d.processes() {
			line := cmdline(pid)
			if strings.HasPrefix(line, "berth-monitor --") {
				monitors++
			}
			if strings.HasPrefix(line, "fakeoci-container init") {
				inits++
			}
		}
		return monitors <= len(d.pods()) && inits <= len(d.containers())
	})
}
