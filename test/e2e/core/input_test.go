package core

import (
	"context"
	"os"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// refusal is one bad request: the code it must be refused with, and a word that must be in the error.
type refusal struct {
	name  string
	call  func(context.Context) error
	codes []codes.Code
	names string
}

// TestBadInput: the right code, an error that names the field or path, nothing left behind (harness.Get checks that).
func TestBadInput(t *testing.T) {
	n := harness.Get(t)
	none := strings.Repeat("0", 64)
	p := n.Run(t, harness.PodConfig("bad", n.Dir))
	n.Pull(t, harness.Busybox)
	invalid, missing := []codes.Code{codes.InvalidArgument}, []codes.Code{codes.NotFound}

	var table []refusal
	pod := func(name, field string, change func(*rt.PodSandboxConfig)) {
		table = append(table, refusal{"run pod: " + name, func(ctx context.Context) error {
			cfg := harness.PodConfig("bad-input", n.Dir)
			change(cfg)
			r, err := n.Raw.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: cfg})
			if err == nil {
				n.Raw.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: r.PodSandboxId})
			}
			return err
		}, invalid, field})
	}
	pod("no metadata", "metadata", func(c *rt.PodSandboxConfig) { c.Metadata = nil })
	pod("no name", "name", func(c *rt.PodSandboxConfig) { c.Metadata.Name = "" })
	pod("no uid", "uid", func(c *rt.PodSandboxConfig) { c.Metadata.Uid = "" })
	pod("no namespace", "namespace", func(c *rt.PodSandboxConfig) { c.Metadata.Namespace = "" })
	pod("bad sysctl", "kernel.panic", func(c *rt.PodSandboxConfig) { c.Linux.Sysctls = map[string]string{"kernel.panic": "1"} })
	pod("bad host name", "hostname", func(c *rt.PodSandboxConfig) { c.Hostname = strings.Repeat("x", 300) })
	table = append(table,
		refusal{"run pod: no config", func(ctx context.Context) error {
			_, err := n.Raw.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{})
			return err
		}, invalid, "config"},
		refusal{"run pod: unknown handler", func(ctx context.Context) error {
			_, err := n.Raw.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: harness.PodConfig("handler", n.Dir), RuntimeHandler: "nosuch"})
			return err
		}, []codes.Code{codes.InvalidArgument, codes.NotFound}, "nosuch"})

	container := func(name, field string, codes []codes.Code, change func(*rt.ContainerConfig)) {
		table = append(table, refusal{"create: " + name, func(ctx context.Context) error {
			cfg := harness.Command("bad", "true")
			change(cfg)
			r, err := n.Raw.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: p.ID, Config: cfg, SandboxConfig: p.Config})
			if err == nil {
				n.Raw.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: r.ContainerId})
			}
			return err
		}, codes, field})
	}
	container("no metadata", "metadata", invalid, func(c *rt.ContainerConfig) { c.Metadata = nil })
	container("no name", "name", invalid, func(c *rt.ContainerConfig) { c.Metadata.Name = "" })
	container("no image", "image", invalid, func(c *rt.ContainerConfig) { c.Image = nil })
	container("unknown image", "nosuch", missing, func(c *rt.ContainerConfig) { c.Image.Image = "registry.k8s.io/nosuch:1" })
	container("log path leaves its directory", "log_path", invalid, func(c *rt.ContainerConfig) { c.LogPath = "../../escape.log" })
	container("absolute log path", "log_path", invalid, func(c *rt.ContainerConfig) { c.LogPath = "/tmp/../etc/escape" })
	container("mount to nowhere", "container_path", invalid, func(c *rt.ContainerConfig) { c.Mounts = []*rt.Mount{{HostPath: "/tmp"}} })
	container("a user that does not exist", "nosuchuser", []codes.Code{codes.InvalidArgument, codes.NotFound}, func(c *rt.ContainerConfig) {
		c.Linux.SecurityContext.RunAsUsername = "nosuchuser"
	})
	container("a group without a user", "run_as_group", invalid, func(c *rt.ContainerConfig) {
		c.Linux.SecurityContext.RunAsGroup = &rt.Int64Value{Value: 7}
	})
	container("an unknown capability", "CAP_NOSUCH", invalid, func(c *rt.ContainerConfig) {
		c.Linux.SecurityContext.Capabilities = &rt.Capability{AddCapabilities: []string{"CAP_NOSUCH"}}
	})
	container("a seccomp profile that is not there", "nosuch.json", []codes.Code{codes.InvalidArgument, codes.NotFound}, func(c *rt.ContainerConfig) {
		c.Linux.SecurityContext.Seccomp = &rt.SecurityProfile{ProfileType: rt.SecurityProfile_Localhost, LocalhostRef: "/nosuch.json"}
	})
	table = append(table, refusal{"create: no config", func(ctx context.Context) error {
		_, err := n.Raw.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: p.ID, SandboxConfig: p.Config})
		return err
	}, invalid, "config"}, refusal{"create: unknown pod", func(ctx context.Context) error {
		_, err := n.Raw.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: none, Config: harness.Command("x", "true"), SandboxConfig: p.Config})
		return err
	}, missing, none[:12]})

	table = append(table, unknownIDs(n, none, missing)...)
	table = append(table, malformed(n)...)
	for _, c := range table {
		t.Run(c.name, func(t *testing.T) {
			checkRefusal(t, c, n.Root == "")
		})
	}
	if _, err := os.Stat(p.Config.LogDirectory + "/../../escape.log"); err == nil {
		t.Error("a log was written outside its directory")
	}
}

// checkRefusal is content with any refusal of a foreign daemon: codes and words are ours to promise.
func checkRefusal(t *testing.T, c refusal, foreign bool) {
	t.Helper()
	err := c.call(t.Context())
	if err == nil {
		if foreign {
			t.Skip("this daemon accepts it")
		}
		t.Fatal("accepted")
	}
	if foreign {
		return
	}
	got, ok := status.FromError(err)
	if !ok {
		t.Fatalf("not a gRPC status: %v", err)
	}
	right := false
	for _, want := range c.codes {
		right = right || got.Code() == want
	}
	if !right {
		t.Errorf("%v (%s), want %v", got.Code(), got.Message(), c.codes)
	}
	if !strings.Contains(strings.ToLower(got.Message()), strings.ToLower(c.names)) {
		t.Errorf("%q does not name %q", got.Message(), c.names)
	}
}

func unknownIDs(n *harness.Node, id string, missing []codes.Code) []refusal {
	r := n.Raw
	return []refusal{
		{"pod status: unknown id", func(ctx context.Context) error {
			_, err := r.PodSandboxStatus(ctx, &rt.PodSandboxStatusRequest{PodSandboxId: id})
			return err
		}, missing, id[:12]},
		{"container status: unknown id", func(ctx context.Context) error {
			_, err := r.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: id})
			return err
		}, missing, id[:12]},
		{"start: unknown id", func(ctx context.Context) error {
			_, err := r.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: id})
			return err
		}, missing, id[:12]},
		{"exec sync: unknown id", func(ctx context.Context) error {
			_, err := r.ExecSync(ctx, &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}})
			return err
		}, missing, id[:12]},
		{"exec: unknown id", func(ctx context.Context) error {
			_, err := r.Exec(ctx, &rt.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdout: true})
			return err
		}, missing, id[:12]},
		{"attach: unknown id", func(ctx context.Context) error {
			_, err := r.Attach(ctx, &rt.AttachRequest{ContainerId: id, Stdout: true})
			return err
		}, missing, id[:12]},
		{"port-forward: unknown id", func(ctx context.Context) error {
			_, err := r.PortForward(ctx, &rt.PortForwardRequest{PodSandboxId: id, Port: []int32{80}})
			return err
		}, missing, id[:12]},
		{"reopen log: unknown id", func(ctx context.Context) error {
			_, err := r.ReopenContainerLog(ctx, &rt.ReopenContainerLogRequest{ContainerId: id})
			return err
		}, missing, id[:12]},
		{"update: unknown id", func(ctx context.Context) error {
			_, err := r.UpdateContainerResources(ctx, &rt.UpdateContainerResourcesRequest{ContainerId: id, Linux: &rt.LinuxContainerResources{CpuShares: 10}})
			return err
		}, missing, id[:12]},
		{"container stats: unknown id", func(ctx context.Context) error {
			_, err := r.ContainerStats(ctx, &rt.ContainerStatsRequest{ContainerId: id})
			return err
		}, missing, id[:12]},
	}
}

// malformed ids and references: never a path, never "the first that begins with nothing".
func malformed(n *harness.Node) []refusal {
	var out []refusal
	for _, id := range []string{"", "../../etc", "a/b", "x\x00y"} {
		out = append(out, refusal{"container status: id " + quoted(id), func(ctx context.Context) error {
			_, err := n.Raw.ContainerStatus(ctx, &rt.ContainerStatusRequest{ContainerId: id})
			return err
		}, []codes.Code{codes.InvalidArgument, codes.NotFound}, ""}, refusal{"pod status: id " + quoted(id), func(ctx context.Context) error {
			_, err := n.Raw.PodSandboxStatus(ctx, &rt.PodSandboxStatusRequest{PodSandboxId: id})
			return err
		}, []codes.Code{codes.InvalidArgument, codes.NotFound}, ""})
	}
	for _, ref := range []string{"", "UPPER/Case", "a b", "x@sha256:short", "../up"} {
		out = append(out, refusal{"pull: " + quoted(ref), func(ctx context.Context) error {
			_, err := n.RawImages.PullImage(ctx, &rt.PullImageRequest{Image: &rt.ImageSpec{Image: ref}})
			return err
		}, []codes.Code{codes.InvalidArgument}, ref})
	}
	return append(out, refusal{"pull: no image", func(ctx context.Context) error {
		_, err := n.RawImages.PullImage(ctx, &rt.PullImageRequest{})
		return err
	}, []codes.Code{codes.InvalidArgument}, "image"})
}

func quoted(s string) string {
	return "[" + strings.ReplaceAll(strings.ReplaceAll(s, "/", "|"), "\x00", "NUL") + "]"
}

// A command that does not exist is found out at create or at start, and named.
func TestMissingCommand(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("nocmd", n.Dir))
	n.Pull(t, harness.Busybox)
	cfg := harness.Command("x", "")
	cfg.Command = []string{"/no/such/command"}
	id, err := n.Runtime.CreateContainer(t.Context(), p.ID, cfg, p.Config)
	if err == nil {
		err = n.Runtime.StartContainer(t.Context(), id)
		if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_EXITED || s.ExitCode == 0 || s.Reason != "StartError" {
			t.Errorf("after a failed start: %v", s)
		}
	}
	if err == nil || !strings.Contains(err.Error(), "/no/such/command") {
		t.Errorf("error %v does not name the command", err)
	}
}
