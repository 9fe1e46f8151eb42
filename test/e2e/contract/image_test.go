// Package contract proves, row by row, what docs/cri-behaviour.md promises of the running daemon.
package contract

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// configured is a container of the image that has something in every field of its configuration.
func configured(name string) *rt.ContainerConfig {
	cfg := harness.Command(name, "")
	cfg.Image.Image, cfg.Command = harness.Configured, nil
	return cfg
}

// command and args of the request, entrypoint and command of the image: the four ways to put them together.
func TestArgv(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("argv", n.Dir))
	for _, c := range []struct {
		name, want    string
		command, args []string
	}{
		{"neither", "by default\n/not/in/the/image\n", nil, nil},
		{"args", "args\n", nil, []string{"echo args; sleep 1000"}},
		{"command", "command\n", []string{"sh", "-c", "echo command; sleep 1000"}, nil},
		{"both", "both x\n", []string{"sh", "-c"}, []string{"echo both $0; sleep 1000", "x"}},
	} {
		cfg := configured(c.name)
		cfg.Command, cfg.Args = c.command, c.args
		p.Start(cfg)
		harness.Eventually(t, harness.Patience, c.name+" has written "+c.want, func() bool { return p.Log(c.name+".log", "stdout") == c.want })
	}
	none := harness.Command("none", "")
	none.Image.Image, none.Command = "registry.k8s.io/pause:3.9", nil
	none.Command = []string{""}
	n.Pull(t, none.Image.Image)
	if id, err := n.Runtime.CreateContainer(t.Context(), p.ID, none, p.Config); err == nil {
		t.Errorf("an empty command made container %s", id)
	}
}

// Image below request, each name once; what neither has is given; bytes pass through.
func TestEnv(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("env", n.Dir))
	cfg := configured("env")
	cfg.Command = []string{"sh", "-c", "tr '\\0' '|' </proc/self/environ; echo; sleep 1000"}
	cfg.Envs = []*rt.KeyValue{{Key: "BOTH", Value: []byte("request")}, {Key: "LINES", Value: []byte("a\nb=c\xff")}, {Key: "EMPTY"}, {Key: "END", Value: []byte("1")}}
	cfg.Tty = false
	p.Start(cfg)
	var got []string
	harness.Eventually(t, harness.Patience, "the environment is written", func() bool {
		got = strings.Split(p.Log("env.log", "stdout"), "|")
		return slices.Contains(got, "END=1")
	})
	for _, want := range []string{"FROM_IMAGE=1", "BOTH=request", "LINES=a\nb=c\xff", "EMPTY=", "HOSTNAME=env", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"} {
		if !slices.Contains(got, want) {
			t.Errorf("%q is not in %q", want, got)
		}
	}
	if slices.Contains(got, "BOTH=image") {
		t.Error("a name is there twice")
	}
}

// The image's volumes: filled with what the image has, found inside it whatever links and dots say, gone with the container.
func TestImageVolumes(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("volumes", n.Dir))
	dir := filepath.Join(n.Dir, "covering")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	cfg := configured("volumes")
	cfg.Mounts = []*rt.Mount{{ContainerPath: "/covered", HostPath: dir}}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"cat /data/file":                            "from the image\n",
		"stat -c %a:%u:%g /data":                    "1770:33:33\n",
		"stat -c %a:%u:%g /data/file":               "640:33:33\n",
		"stat -c %F /data/fifo":                     "fifo\n",
		"ls -d /data/sub":                           "/data/sub\n",
		"readlink /data/out":                        "/../../../../etc/hostname\n",
		"ls -A /covered":                            "",
		"ls -A /fresh":                              "",
		"cat /hop/here":                             "by link\n",
		"grep -c ' /data ' /proc/self/mountinfo":    "1\n",
		"grep -c ' /covered ' /proc/self/mountinfo": "1\n",
		"ls -A /data":                               "fifo\nfile\nout\nsub\n",
	})
	n.Exec(t, id, "sh", "-c", "echo new >/data/new; echo x >/fresh/x")
	other := p.Start(configured("other"))
	if got := n.Exec(t, other, "ls", "-A", "/data", "/fresh"); strings.Contains(got, "new") || strings.Contains(got, "x") {
		t.Errorf("the volume of one container is in another: %q", got)
	}
	if err := n.Runtime.RemoveContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if n.Root != "" {
		if left, _ := filepath.Glob(filepath.Join(n.Root, "pods", p.ID, "c", id)); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
	}
}

// An image as a volume, whole and in part.
func TestMountedImage(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("imagevolume", n.Dir))
	n.Pull(t, harness.Configured)
	status, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: harness.Configured}, false)
	if err != nil {
		t.Fatal(err)
	}
	mount := func(at, sub string) *rt.Mount {
		return &rt.Mount{ContainerPath: at, Readonly: true, Image: &rt.ImageSpec{Image: status.Image.Id, UserSpecifiedImage: harness.Configured}, ImageSubPath: sub}
	}
	cfg := harness.Command("mounted", "sleep 1000")
	cfg.Mounts = []*rt.Mount{mount("/whole", ""), mount("/part", "data"), mount("/one", "data/file"), mount("/linked", "hop")}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"cat /whole/data/file /part/file /one /linked/here": "from the image\nfrom the image\nfrom the image\nby link\n",
		"ls /part":                             "fifo\nfile\nout\nsub\n",
		"stat -c %u /part/file":                "33\n",
		"touch /part/x 2>/dev/null || echo ro": "ro\n",
	})
	if s := n.Status(t, id); len(s.Mounts) != 4 || s.Mounts[1].ImageSubPath != "data" || s.Mounts[0].Image.GetImage() != status.Image.Id {
		t.Errorf("mounts in status: %v", s.Mounts)
	}
	for name, sub := range map[string]string{"missing": "not/there", "gone": "data/gone", "out": "data/out", "fifo": "data/fifo"} {
		cfg := harness.Command("bad-"+name, "sleep 1000")
		cfg.Mounts = []*rt.Mount{mount("/part", sub)}
		id, err := n.Runtime.CreateContainer(t.Context(), p.ID, cfg, p.Config)
		if err == nil {
			t.Errorf("sub path %s made container %s", sub, id)
		} else if !strings.Contains(err.Error(), "desc = ImageVolumeMountFailed: ") {
			t.Errorf("sub path %s: %v", sub, err)
		}
	}
	// Without an image the sub path of an ordinary volume says nothing.
	plain := harness.Command("plain", "sleep 1000")
	plain.Mounts = []*rt.Mount{{ContainerPath: "/etc/plain", HostPath: "/etc/passwd", ImageSubPath: "whatever/kubelet/says"}}
	if got := n.Exec(t, p.Start(plain), "cat", "/etc/plain"); !strings.Contains(got, "root:") {
		t.Errorf("image_sub_path without an image changed the mount: %q", got)
	}
}

// What images leave to the runtime, and an account for a user the image does not know.
func TestFurnishing(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("furnished", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.SecurityContext.RunAsUser, cfg.Linux.SecurityContext.RunAsGroup = &rt.Int64Value{Value: 4711}, &rt.Int64Value{Value: 4712}
	cfg.Linux.SecurityContext.ReadonlyRootfs = true
	cfg.Envs = []*rt.KeyValue{{Key: "HOME", Value: []byte("/tmp:0:0")}}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"readlink /etc/mtab":                "/proc/mounts\n",
		"tail -n 1 /etc/passwd":             "4711:x:4711:4712::/:/sbin/nologin\n",
		"tail -n 1 /etc/group":              "4712:x:4712:\n",
		"grep -c ^root: /etc/passwd":        "1\n",
		"id -u -n":                          "4711\n",
		"stat -c %a:%u:%g /etc/passwd /etc": "644:0:0\n755:0:0\n",
	})
}

// The stop signal is the request's, else the image's, and is told.
func TestStopSignal(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("signal", n.Dir))
	const script = "trap 'echo usr1; exit 3' USR1; trap 'echo int; exit 4' INT; trap 'echo term; exit 5' TERM; echo ready; while :; do sleep 0.1; done"
	for _, c := range []struct {
		name, image string
		signal      rt.Signal
		code        int32
		told        rt.Signal
	}{
		{"image", harness.Configured, 0, 3, rt.Signal_SIGNAL_SIGUSR1},
		{"request", harness.Configured, rt.Signal_SIGNAL_SIGINT, 4, rt.Signal_SIGNAL_SIGINT},
		{"default", harness.Busybox, 0, 5, rt.Signal_SIGNAL_SIGTERM},
	} {
		cfg := harness.Command(c.name, script)
		cfg.Image.Image, cfg.StopSignal = c.image, c.signal
		id := p.Start(cfg)
		harness.Eventually(t, harness.Patience, c.name+" is ready", func() bool { return p.Log(c.name+".log", "stdout") == "ready\n" })
		if err := n.Runtime.StopContainer(t.Context(), id, 10); err != nil {
			t.Fatal(err)
		}
		if s := n.Status(t, id); s.ExitCode != c.code || s.StopSignal != c.told {
			t.Errorf("%s: exit code %d, stop signal %v; want %d, %v", c.name, s.ExitCode, s.StopSignal, c.code, c.told)
		}
	}
}
