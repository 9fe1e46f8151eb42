package contract

import (
	"encoding/json"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// An update changes what it names and nothing else; one that is refused changes nothing; status says what is in force.
func TestUpdateResources(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("update", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.Resources = &rt.LinuxContainerResources{CpuPeriod: 100000, CpuQuota: 20000, CpuShares: 512, MemoryLimitInBytes: 64 << 20,
		HugepageLimits: []*rt.HugepageLimit{{PageSize: "2MB"}, {PageSize: "1GB"}}, OomScoreAdj: 500}
	id := p.Start(cfg)
	if got := n.Exec(t, id, "cat", "/proc/1/oom_score_adj"); got != "500\n" {
		t.Errorf("oom_score_adj %q", got)
	}
	update := func(r *rt.LinuxContainerResources) error {
		return n.Runtime.UpdateContainerResources(t.Context(), id, &rt.ContainerResources{Linux: r})
	}
	if err := update(&rt.LinuxContainerResources{CpuShares: 1024, MemoryLimitInBytes: 128 << 20}); err != nil {
		t.Fatal(err)
	}
	in := func() *rt.LinuxContainerResources { return n.Status(t, id).GetResources().GetLinux() }
	if r := in(); r.CpuShares != 1024 || r.CpuQuota != 20000 || r.CpuPeriod != 100000 || r.MemoryLimitInBytes != 128<<20 {
		t.Errorf("in force: %v", r)
	}
	if err := update(&rt.LinuxContainerResources{CpuShares: 2048, CpusetCpus: "4000"}); err == nil {
		t.Error("a cpuset that the host does not have was taken")
	}
	if r := in(); r.CpuShares != 1024 || r.CpusetCpus != "" {
		t.Errorf("after a refused update: %v", r)
	}
	if err := update(&rt.LinuxContainerResources{CpuQuota: -1}); err != nil {
		t.Errorf("quota -1: %v", err)
	}
}

// kubelet tells what it gave the pod; the runtime takes it and can show it.
func TestUpdatePodResources(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("podupdate", n.Dir))
	_, err := n.Runtime.UpdatePodSandboxResources(t.Context(), &rt.UpdatePodSandboxResourcesRequest{PodSandboxId: p.ID,
		Overhead: &rt.LinuxContainerResources{MemoryLimitInBytes: 11 << 20}, Resources: &rt.LinuxContainerResources{CpuShares: 333}})
	if err != nil {
		t.Fatal(err)
	}
	s, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, true)
	if err != nil {
		t.Fatal(err)
	}
	var info struct {
		Resources struct {
			Shares int64 `json:"cpu_shares"`
		}
	}
	if err := json.Unmarshal([]byte(s.Info["info"]), &info); err != nil || info.Resources.Shares != 333 {
		t.Errorf("%v: resources in verbose status: %+v", err, info)
	}
	_, err = n.Runtime.UpdatePodSandboxResources(t.Context(), &rt.UpdatePodSandboxResourcesRequest{PodSandboxId: strings.Repeat("0", 64)})
	if err == nil || !strings.Contains(err.Error(), "NotFound") {
		t.Errorf("unknown pod: %v", err)
	}
}

// What kubelet asks of the node at its start.
func TestNode(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	ctx := t.Context()
	v, err := n.Runtime.Version(ctx, "v1")
	if err != nil || v.Version != "0.1.0" || v.RuntimeName == "" || v.RuntimeVersion == "" || v.RuntimeApiVersion == "" {
		t.Errorf("version %v, %v", v, err)
	}
	c, err := n.Runtime.RuntimeConfig(ctx)
	if err != nil || c.GetLinux() == nil {
		t.Errorf("runtime config %v, %v", c, err)
	}
	if err := n.Runtime.UpdateRuntimeConfig(ctx, &rt.RuntimeConfig{NetworkConfig: &rt.NetworkConfig{PodCidr: "10.1.0.0/16"}}); err != nil {
		t.Errorf("UpdateRuntimeConfig: %v", err)
	}
	s, err := n.Runtime.Status(ctx, true)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.RuntimeHandlers) == 0 || s.RuntimeHandlers[0].Name != "" || s.RuntimeHandlers[0].Features == nil || !s.GetFeatures().GetSupplementalGroupsPolicy() {
		t.Errorf("handlers %v, features %v", s.RuntimeHandlers, s.Features)
	}
	fs, err := n.Images.ImageFsInfo(ctx)
	if err != nil || len(fs.ImageFilesystems) == 0 || fs.ImageFilesystems[0].FsId.GetMountpoint() == "" || fs.ImageFilesystems[0].UsedBytes == nil || fs.ImageFilesystems[0].Timestamp == 0 {
		t.Errorf("image file system %v, %v", fs, err)
	}
	if id, err := n.Runtime.RunPodSandbox(ctx, harness.PodConfig("handler", n.Dir), "nobody-has-this"); err == nil {
		t.Errorf("an unknown handler made pod %s", id)
	}
}
