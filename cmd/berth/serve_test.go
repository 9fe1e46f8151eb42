package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// TestMain lets the test binary be the program itself, so that a daemon is a process of its own.
func TestMain(m *testing.M) {
	if os.Getenv("BERTH_TEST_RUN") != "" {
		os.Exit(run(std{os.Stdout, os.Stderr}, os.Args[1:]))
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
}

// daemonProcess is a running "berth serve".
type daemonProcess struct {
	cmd    *exec.Cmd
	log    syncBuffer
	notify *net.UnixConn
	sock   string
}

// syncBuffer is a buffer that one writes while another reads.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (s *syncBuffer) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.Write(p)
}

func (s *syncBuffer) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.b.String()
}

// program makes "berth ARGS" of this test binary.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", args...)
	cmd.Env = append(os.Environ(), "BERTH_TEST_RUN=1")
	return cmd
}

// startDaemon starts a daemon below dir and waits until it says that it is ready.
func startDaemon(t *testing.T, dir string, args ...string) *daemonProcess {
	t.Helper()
	d := &daemonProcess{sock: filepath.Join(dir, "state", "berth.sock")}
	// In a directory of its own: the path of a notification socket has at most 107 bytes.
	tmp, err := os.MkdirTemp("", "berth")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(tmp) })
	name := filepath.Join(tmp, "notify")
	if d.notify, err = net.ListenUnixgram("unixgram", &net.UnixAddr{Name: name, Net: "unixgram"}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.notify.Close() })
	d.cmd = program(append([]string{"serve", "--config", "/dev/null", "--root", filepath.Join(dir, "root"), "--state", filepath.Join(dir, "state"),
		"--cni-conf-dir", filepath.Join(dir, "cni"), "--log-level", "debug", "--monitor", "/bin/true", "--oci", "/bin/true"}, args...)...)
	d.cmd.Env = append(d.cmd.Env, "NOTIFY_SOCKET="+name)
	d.cmd.Stderr = &d.log
	if err := d.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if d.cmd.ProcessState == nil {
			d.cmd.Process.Kill()
			d.cmd.Wait()
		}
	})
	d.told(t, "READY=1")
	return d
}

// told waits for a message to the service manager.
func (d *daemonProcess) told(t *testing.T, want string) {
	t.Helper()
	d.notify.SetReadDeadline(time.Now().Add(time.Minute))
	buf := make([]byte, 256)
	n, err := d.notify.Read(buf)
	if err != nil || string(buf[:n]) != want {
		d.cmd.Process.Kill()
		d.cmd.Wait()
		t.Fatalf("told %q, %v, want %q; log:\n%s", buf[:n], err, want, d.log.String())
	}
}

func (d *daemonProcess) dial(t *testing.T) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient("passthrough:///x", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(context.Context, string) (net.Conn, error) { return net.Dial("unix", d.sock) }))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return conn
}

func TestServe(t *testing.T) {
	t.Parallel()
	needRoot(t)
	d := startDaemon(t, t.TempDir())
	st, err := os.Stat(d.sock)
	if err != nil || st.Mode().Perm() != 0o660 {
		t.Errorf("socket %v, %v", st.Mode(), err)
	}
	conn := d.dial(t)
	runtime, images := rt.NewRuntimeServiceClient(conn), rt.NewImageServiceClient(conn)
	v, err := runtime.Version(t.Context(), &rt.VersionRequest{})
	if err != nil || v.Version != "0.1.0" || v.RuntimeName != "berth" || v.RuntimeApiVersion != "v1" || v.RuntimeVersion == "" {
		t.Errorf("version %v, %v", v, err)
	}
	rc, err := runtime.RuntimeConfig(t.Context(), &rt.RuntimeConfigRequest{})
	if err != nil || rc.Linux == nil {
		t.Errorf("runtime config %v, %v", rc, err)
	}
	if _, err := runtime.UpdateRuntimeConfig(t.Context(), &rt.UpdateRuntimeConfigRequest{}); err != nil {
		t.Error(err)
	}
	s, err := runtime.Status(t.Context(), &rt.StatusRequest{Verbose: true})
	if err != nil || len(s.GetStatus().GetConditions()) < 2 {
		t.Fatalf("status %v, %v", s, err)
	}
	var shown struct{ StateDir string }
	if err := json.Unmarshal([]byte(s.Info["config"]), &shown); err != nil || shown.StateDir != filepath.Dir(d.sock) {
		t.Errorf("status info %v, %v", s.Info, err)
	}
	fsinfo, err := images.ImageFsInfo(t.Context(), &rt.ImageFsInfoRequest{})
	if err != nil || len(fsinfo.ImageFilesystems) != 1 || fsinfo.ImageFilesystems[0].UsedBytes == nil || fsinfo.ImageFilesystems[0].Timestamp <= 0 {
		t.Errorf("image file system %v, %v", fsinfo, err)
	}
	if _, err := runtime.CheckpointPod(t.Context(), &rt.CheckpointPodRequest{}); status.Code(err) != codes.Unimplemented {
		t.Errorf("what is not built: %v", err)
	}

	// Streams of events must not hold up the end.
	events, err := runtime.GetContainerEvents(t.Context(), &rt.GetEventsRequest{})
	if err != nil {
		t.Fatal(err)
	}
	d.cmd.Process.Signal(syscall.SIGUSR1)
	for end := time.Now().Add(time.Minute); !strings.Contains(d.log.String(), "goroutine 1 [") && time.Now().Before(end); {
		time.Sleep(10 * time.Millisecond)
	}
	began := time.Now()
	d.cmd.Process.Signal(syscall.SIGTERM)
	d.told(t, "STOPPING=1")
	if _, err := events.Recv(); err == nil {
		t.Error("an event out of nothing")
	}
	if err := d.cmd.Wait(); err != nil || time.Since(began) > 30*time.Second {
		t.Errorf("ended with %v after %v; log:\n%s", err, time.Since(began), d.log.String())
	}
	if _, err := os.Lstat(d.sock); !os.IsNotExist(err) {
		t.Errorf("socket is left: %v", err)
	}
	for _, want := range []string{"goroutine 1 [", "msg=Version", "msg=CheckpointPod", "code=Unimplemented", "msg=serving"} {
		if !strings.Contains(d.log.String(), want) {
			t.Errorf("no %q in the log:\n%.3000s", want, d.log.String())
		}
	}
}

func TestBadInput(t *testing.T) {
	t.Parallel()
	needRoot(t)
	d := startDaemon(t, t.TempDir())
	conn := d.dial(t)
	r, i := rt.NewRuntimeServiceClient(conn), rt.NewImageServiceClient(conn)
	ctx := t.Context()
	md := &rt.PodSandboxMetadata{Name: "n", Namespace: "s", Uid: "u"}
	const nobody = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	image := func(s string) *rt.ImageSpec { return &rt.ImageSpec{Image: s} }
	for name, c := range map[string]struct {
		call func() (any, error)
		code codes.Code
		text string
	}{
		"run nothing": {func() (any, error) { return r.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{}) }, codes.InvalidArgument, "config"},
		"run nameless": {func() (any, error) {
			return r.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: &rt.PodSandboxConfig{}})
		}, codes.InvalidArgument, "metadata"},
		"run handler": {func() (any, error) {
			return r.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: &rt.PodSandboxConfig{Metadata: md}, RuntimeHandler: "kata"})
		}, codes.InvalidArgument, "kata"},
		"stop empty":     {func() (any, error) { return r.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{}) }, codes.InvalidArgument, "pod_sandbox_id"},
		"stop slash":     {func() (any, error) { return r.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: "../x"}) }, codes.InvalidArgument, "pod_sandbox_id"},
		"stop unknown":   {func() (any, error) { return r.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: nobody}) }, codes.OK, ""},
		"remove unknown": {func() (any, error) { return r.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: nobody}) }, codes.OK, ""},
		"status unknown": {func() (any, error) { return r.PodSandboxStatus(ctx, &rt.PodSandboxStatusRequest{PodSandboxId: nobody}) }, codes.NotFound, "0123"},
		"status empty":   {func() (any, error) { return r.PodSandboxStatus(ctx, &rt.PodSandboxStatusRequest{}) }, codes.InvalidArgument, "pod_sandbox_id"},
		"pod stats":      {func() (any, error) { return r.PodSandboxStats(ctx, &rt.PodSandboxStatsRequest{PodSandboxId: nobody}) }, codes.NotFound, ""},
		"update pod": {func() (any, error) {
			return r.UpdatePodSandboxResources(ctx, &rt.UpdatePodSandboxResourcesRequest{PodSandboxId: nobody})
		}, codes.NotFound, ""},
		"create nothing": {func() (any, error) { return r.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: nobody}) }, codes.InvalidArgument, "config"},
		"create nameless": {func() (any, error) {
			return r.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: nobody, Config: &rt.ContainerConfig{}})
		}, codes.InvalidArgument, "metadata"},
		"create imageless": {func() (any, error) {
			return r.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: nobody, Config: &rt.ContainerConfig{Metadata: &rt.ContainerMetadata{Name: "c"}}})
		}, codes.InvalidArgument, "image"},
		"create nowhere": {func() (any, error) {
			return r.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: nobody, Config: &rt.ContainerConfig{Metadata: &rt.ContainerMetadata{Name: "c"}, Image: image("x")}})
		}, codes.NotFound, "pod"},
		"start unknown":    {func() (any, error) { return r.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: nobody}) }, codes.NotFound, ""},
		"stop container":   {func() (any, error) { return r.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: nobody}) }, codes.OK, ""},
		"remove container": {func() (any, error) { return r.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: nobody}) }, codes.OK, ""},
		"remove empty":     {func() (any, error) { return r.RemoveContainer(ctx, &rt.RemoveContainerRequest{}) }, codes.InvalidArgument, "container_id"},
		"container status": {func() (any, error) { return r.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: nobody}) }, codes.NotFound, ""},
		"container stats":  {func() (any, error) { return r.ContainerStats(ctx, &rt.ContainerStatsRequest{ContainerId: nobody}) }, codes.NotFound, ""},
		"update container": {func() (any, error) {
			return r.UpdateContainerResources(ctx, &rt.UpdateContainerResourcesRequest{ContainerId: nobody})
		}, codes.NotFound, ""},
		"reopen": {func() (any, error) {
			return r.ReopenContainerLog(ctx, &rt.ReopenContainerLogRequest{ContainerId: nobody})
		}, codes.NotFound, ""},
		"execsync": {func() (any, error) {
			return r.ExecSync(ctx, &rt.ExecSyncRequest{ContainerId: nobody, Cmd: []string{"x"}})
		}, codes.NotFound, ""},
		"exec": {func() (any, error) {
			return r.Exec(ctx, &rt.ExecRequest{ContainerId: nobody, Cmd: []string{"x"}, Stdout: true})
		}, codes.NotFound, ""},
		"attach":          {func() (any, error) { return r.Attach(ctx, &rt.AttachRequest{ContainerId: "a/b", Stdout: true}) }, codes.InvalidArgument, "container_id"},
		"port-forward":    {func() (any, error) { return r.PortForward(ctx, &rt.PortForwardRequest{PodSandboxId: nobody}) }, codes.NotFound, ""},
		"pull nothing":    {func() (any, error) { return i.PullImage(ctx, &rt.PullImageRequest{}) }, codes.InvalidArgument, "image"},
		"pull malformed":  {func() (any, error) { return i.PullImage(ctx, &rt.PullImageRequest{Image: image("UPPER//x:")}) }, codes.InvalidArgument, "UPPER"},
		"image status":    {func() (any, error) { return i.ImageStatus(ctx, &rt.ImageStatusRequest{}) }, codes.InvalidArgument, "image"},
		"image malformed": {func() (any, error) { return i.ImageStatus(ctx, &rt.ImageStatusRequest{Image: image("a b")}) }, codes.InvalidArgument, "a b"},
		"image unknown":   {func() (any, error) { return i.ImageStatus(ctx, &rt.ImageStatusRequest{Image: image("nobody/has:it")}) }, codes.OK, ""},
		"remove image":    {func() (any, error) { return i.RemoveImage(ctx, &rt.RemoveImageRequest{Image: image("nobody/has:it")}) }, codes.OK, ""},
		"remove no image": {func() (any, error) { return i.RemoveImage(ctx, &rt.RemoveImageRequest{}) }, codes.InvalidArgument, "image"},
		"list pods":       {func() (any, error) { return r.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{}) }, codes.OK, ""},
		"list containers": {func() (any, error) { return r.ListContainers(ctx, &rt.ListContainersRequest{}) }, codes.OK, ""},
		"list images":     {func() (any, error) { return i.ListImages(ctx, &rt.ListImagesRequest{}) }, codes.OK, ""},
	} {
		resp, err := c.call()
		if s := status.Convert(err); s.Code() != c.code || !strings.Contains(s.Message(), c.text) {
			t.Errorf("%s: %v, %v, want %v with %q", name, resp, err, c.code, c.text)
		}
	}
}

// TestRefusals starts second daemons where a first one is.
func TestRefusals(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir, other := t.TempDir(), t.TempDir()
	d := startDaemon(t, dir)
	file := filepath.Join(other, "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	refused := func(want []string, args ...string) {
		t.Helper()
		cmd := program(append([]string{"serve", "--config", "/dev/null", "--monitor", "/bin/true", "--oci", "/bin/true"}, args...)...)
		out, err := cmd.CombinedOutput()
		if cmd.ProcessState.ExitCode() != 1 {
			t.Errorf("%v: %v\n%s", args, err, out)
		}
		for _, w := range want {
			if !strings.Contains(string(out), w) {
				t.Errorf("%v: no %q in %s", args, w, out)
			}
		}
	}
	pid := fmt.Sprintf("pid %d", d.cmd.Process.Pid)
	root, state := filepath.Join(dir, "root"), filepath.Join(dir, "state")
	refused([]string{root, "another daemon", pid, "--root"}, "--root", root, "--state", filepath.Join(other, "s"))
	refused([]string{state, "another daemon", pid, "--state"}, "--root", filepath.Join(other, "r"), "--state", state)
	refused([]string{d.sock, "another daemon serves there", "--listen"}, "--root", filepath.Join(other, "r"), "--state", filepath.Join(other, "s"), "--listen", "unix://"+d.sock)
	refused([]string{file, "no socket", "--listen"}, "--root", filepath.Join(other, "r"), "--state", filepath.Join(other, "s"), "--listen", "unix://"+file)
	refused([]string{file, "--root"}, "--root", file, "--state", filepath.Join(other, "s"))
	refused([]string{"/nonexistent", "--monitor"}, "--monitor", "/nonexistent")
	refused([]string{"berth-bridge", "--bridge"}, "--builtin-network")
	refused([]string{"/proc/x", "--root"}, "--root", "/proc/x", "--state", filepath.Join(other, "s"))

	// Side by side with directories of its own.
	second := startDaemon(t, other)
	second.cmd.Process.Signal(syscall.SIGTERM)
	second.told(t, "STOPPING=1")
	if err := second.cmd.Wait(); err != nil {
		t.Error(err)
	}

	// A daemon that was killed leaves its socket; the next one takes its place.
	d.cmd.Process.Kill()
	d.cmd.Wait()
	if _, err := os.Lstat(d.sock); err != nil {
		t.Errorf("socket of a killed daemon: %v", err)
	}
	again := startDaemon(t, dir)
	if _, err := rt.NewRuntimeServiceClient(again.dial(t)).Version(t.Context(), &rt.VersionRequest{}); err != nil {
		t.Error(err)
	}
}

func TestCommands(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		args string
		code int
		want string
	}{
		{"", 2, "Usage: berth COMMAND"},
		{"help", 0, "--builtin-network"},
		{"nope", 2, `unknown command "nope"`},
		{"version", 0, "berth 0.0.0+dev"},
		{"version x", 2, "no arguments"},
		{"config --config /dev/null --root /r", 0, `root = "/r"`},
		{"config --help", 0, "--cgroup-driver"},
		{"serve --nope", 2, "nope"},
	} {
		var out bytes.Buffer
		code := run(std{&out, &out}, strings.Fields(c.args))
		if code != c.code || !strings.Contains(out.String(), c.want) {
			t.Errorf("%s: %d\n%s", c.args, code, out.String())
		}
	}
}

func TestCheck(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	cmd := program("check")
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "openat2") || !strings.Contains(string(out), "nftables") {
		t.Errorf("%v\n%s", err, out)
	}
	left, _ := filepath.Glob(filepath.Join(dir, "*"))
	if len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
