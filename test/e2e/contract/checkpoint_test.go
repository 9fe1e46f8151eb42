package contract

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// untar reads an archive whole.
func untar(t *testing.T, r io.Reader) map[string][]byte {
	t.Helper()
	out := map[string][]byte{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if err == io.EOF {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			t.Fatal(err)
		}
		out[h.Name] = b
	}
}

// A running container's checkpoint: its memory, what it wrote and what it removed, who it is; it goes on.
func TestCheckpoint(t *testing.T) {
	shared := harness.Get(t)
	criu := shared.Peer("criu")
	if criu == "" {
		t.Skip("hack/peers.sh criu fetches CRIU")
	}
	if out, err := exec.Command(criu, "check").CombinedOutput(); err != nil {
		t.Skipf("needs a kernel that CRIU works with: %s", out)
	}
	n := harness.Own(t, harness.Setup{Path: filepath.Dir(criu) + ":" + os.Getenv("PATH"), CNI: map[string]string{"10.conflist": harness.Recording},
		Plugins: map[string]string{"recorder": harness.Recorder, "answer": harness.Answer("10.99.0.7/24")}})
	volume := filepath.Join(n.Dir, "volume")
	if err := os.Mkdir(volume, 0o755); err != nil {
		t.Fatal(err)
	}
	for _, mode := range []rt.NamespaceMode{rt.NamespaceMode_CONTAINER, rt.NamespaceMode_POD} {
		pod := harness.PodConfig("checkpoint", n.Dir)
		pod.Linux.SecurityContext.NamespaceOptions.Pid = mode
		p := n.Run(t, pod)
		name := "c-" + strings.ToLower(mode.String())
		cfg := harness.Command(name, "secret=$(echo moc.htreb.yromem | tr a-z n-za-m); mkdir /made; echo kept >/made/file; rm /opaque/above; ln -s file /made/link; i=0; while :; do i=$((i+1)); echo $i; sleep 0.1; done")
		cfg.Linux.SecurityContext.NamespaceOptions.Pid = mode
		cfg.Mounts = []*rt.Mount{{ContainerPath: "/volume", HostPath: volume}}
		id := p.Start(cfg)
		harness.Eventually(t, harness.Patience, "it counts", func() bool { return strings.HasPrefix(p.Log(name+".log", "stdout"), "1\n2\n3\n") })
		at := filepath.Join(n.Dir, name+".tar")
		if err := n.Runtime.CheckpointContainer(t.Context(), &rt.CheckpointContainerRequest{ContainerId: id, Location: at, Timeout: 60}); err != nil {
			t.Fatal(err)
		}
		was := len(strings.Fields(p.Log(name+".log", "stdout")))
		if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
			t.Errorf("%v", s)
		}
		harness.Eventually(t, harness.Patience, "it counts on", func() bool { return len(strings.Fields(p.Log(name+".log", "stdout"))) > was })
		st, err := os.Stat(at)
		if err != nil || st.Mode().Perm() != 0o600 {
			t.Fatalf("%v, %v", st, err)
		}
		b, err := os.ReadFile(at)
		if err != nil {
			t.Fatal(err)
		}
		checkArchive(t, untar(t, bytes.NewReader(b)), id, p.ID, name)
		if left, _ := filepath.Glob(filepath.Join(n.Root, "pods", p.ID, "c", id, "checkpoint*")); len(left) > 0 {
			t.Errorf("left: %q", left)
		}
		if err := n.Runtime.StopContainer(t.Context(), id, 0); err != nil {
			t.Fatal(err)
		}
		_, err = n.Raw.CheckpointContainer(t.Context(), &rt.CheckpointContainerRequest{ContainerId: id, Location: at + ".2"})
		if status.Code(err) != codes.FailedPrecondition {
			t.Errorf("an ended container: %v", err)
		}
	}
}

func checkArchive(t *testing.T, all map[string][]byte, id, pod, name string) {
	t.Helper()
	for _, want := range []string{"config.dump", "spec.dump", "status.dump", "dump.log", "stats-dump", "container.log", "deleted.files", "rootfs-diff.tar",
		"checkpoint/inventory.img", "checkpoint/pstree.img"} {
		if len(all[want]) == 0 {
			t.Errorf("%s is not there or empty", want)
		}
	}
	var config struct{ ID, Name, RootfsImageName, Runtime string }
	var spec struct {
		Process     struct{ Args []string }
		Annotations map[string]string
	}
	var deleted []string
	for file, v := range map[string]any{"config.dump": &config, "spec.dump": &spec, "deleted.files": &deleted} {
		if err := json.Unmarshal(all[file], v); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	if config.ID != id || config.Name != name || config.RootfsImageName == "" || config.Runtime == "" {
		t.Errorf("config.dump: %+v", config)
	}
	if len(spec.Process.Args) == 0 || spec.Annotations["io.kubernetes.cri.sandbox-id"] != pod || spec.Annotations["io.kubernetes.cri.container-name"] != name {
		t.Errorf("spec.dump: %+v", spec)
	}
	if !slices.Contains(deleted, "opaque/above") {
		t.Errorf("deleted.files: %q", deleted)
	}
	diff := untar(t, bytes.NewReader(all["rootfs-diff.tar"]))
	if _, link := diff["made/link"]; string(diff["made/file"]) != "kept\n" || !link {
		t.Errorf("rootfs-diff.tar has %d things, made/file %q", len(diff), diff["made/file"])
	}
	if _, there := diff["opaque/above"]; there {
		t.Error("what was removed is in rootfs-diff.tar")
	}
	memory := false
	for file, b := range all {
		memory = memory || strings.HasPrefix(file, "checkpoint/pages-") && bytes.Contains(b, []byte("zbp.ugero.lebzrz"))
	}
	if !memory {
		t.Error("what the process had in its memory is in no file of pages")
	}
}

// Where CRIU is missing or does not work that is what the error says, by a code of its own; a dump that fails leaves no file.
func TestCheckpointUnsupported(t *testing.T) {
	shared := harness.Get(t)
	bin := filepath.Join(shared.Dir, "criu-bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(bin)
	n := harness.Own(t, harness.Setup{Path: bin})
	p := n.Run(t, hostPod("unsupported", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	try := func(location string) error {
		_, err := n.Raw.CheckpointContainer(t.Context(), &rt.CheckpointContainerRequest{ContainerId: id, Location: location})
		return err
	}
	put := func(script string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(bin, "criu"), []byte("#!/bin/sh\nPATH=/bin:/usr/bin\n"+script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	dir := filepath.Join(n.Dir, "checkpoints")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	at := filepath.Join(dir, "c.tar")
	check := func(what string, err error, code codes.Code, says ...string) {
		t.Helper()
		if status.Code(err) != code {
			t.Errorf("%s: %v, want %v", what, err, code)
		}
		for _, s := range says {
			if err == nil || !strings.Contains(err.Error(), s) {
				t.Errorf("%s: %v does not say %q", what, err, s)
			}
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%s: left %q", what, left)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, ".*")); len(left) > 0 {
			t.Errorf("%s: left %q", what, left)
		}
	}
	check("no criu", try(at), codes.Unimplemented, "criu", "PATH")
	put("case $1 in --version) echo 'Version: 0.1';; check) echo '(00.0) Error (criu/vdso.c:381): vdso: Unexpected rt vDSO area bounds'; exit 1;; esac")
	check("a criu that does not work", try(at), codes.Unimplemented, "vDSO area bounds", "0.1")
	put("case $1 in dump) while [ $# -gt 0 ]; do [ \"$1\" != --work-dir ] || w=$2; shift; done; echo '(00.1) Error (criu/files.c:7): no way' >$w/dump.log; exit 1;; esac")
	check("a dump that fails", try(at), codes.Unknown, "no way")
	put("exit 0")
	check("a location without a directory", try(filepath.Join(dir, "not/there/c.tar")), codes.Unknown, "not/there")
	check("a relative location", try("c.tar"), codes.InvalidArgument, "location")
	check("no location", try(""), codes.InvalidArgument, "location")
	_, err := n.Raw.CheckpointContainer(t.Context(), &rt.CheckpointContainerRequest{ContainerId: strings.Repeat("0", 64), Location: at})
	check("an unknown container", err, codes.NotFound)
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("%v", s)
	}
}
