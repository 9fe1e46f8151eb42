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

// A pod with a user namespace has all that any other has, and sees its owners.
func TestUserNamespace(t *testing.T) {
	n := harness.Get(t)
	s, err := n.Runtime.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(s.RuntimeHandlers, func(h *rt.RuntimeHandler) bool { return h.Name == "" && h.Features.GetUserNamespaces() }) {
		t.Skip("this host has no user namespaces for pods")
	}
	cfg := harness.PodConfig("userns", n.Dir)
	maps := []*rt.IDMapping{{ContainerId: 0, HostId: 1000, Length: 65536}}
	cfg.Linux.SecurityContext.NamespaceOptions.UsernsOptions = &rt.UserNamespace{Mode: rt.NamespaceMode_POD, Uids: maps, Gids: maps}
	p := n.Run(t, cfg)
	n.Pull(t, harness.Configured)
	image, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: harness.Configured}, false)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(n.Dir, "userns")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.WriteFile(filepath.Join(dir, "f"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := configured("c")
	c.Linux.SecurityContext.NamespaceOptions = cfg.Linux.SecurityContext.NamespaceOptions
	c.Mounts = []*rt.Mount{
		{ContainerPath: "/mapped", HostPath: dir, UidMappings: maps, GidMappings: maps},
		{ContainerPath: "/image", Readonly: true, Image: &rt.ImageSpec{Image: image.Image.Id}, UidMappings: maps, GidMappings: maps},
		{ContainerPath: "/part", Readonly: true, Image: &rt.ImageSpec{Image: image.Image.Id}, ImageSubPath: "data", UidMappings: maps, GidMappings: maps},
	}
	id := p.Start(c)
	n.Says(t, id, map[string]string{
		"cat /proc/self/uid_map | tr -s ' '":                " 0 1000 65536\n",
		"stat -c %u:%g / /etc /etc/mtab /etc/passwd":        "0:0\n0:0\n0:0\n0:0\n",
		"stat -c %u:%g /mapped/f /bin/sh /etc/hosts":        "0:0\n0:0\n0:0\n",
		"cat /mapped/f; echo y >/mapped/new && echo wrote":  "xwrote\n",
		"stat -c %u:%g /data /image/data /part/file":        "33:33\n33:33\n33:33\n",
		"echo z >/data/new && echo z >/dev/shm/z && echo w": "w\n",
		"echo q >/etc/own && stat -c %u /etc/own":           "0\n",
		"test -c /dev/null && echo n >/dev/null && echo d":  "d\n",
	})
	if st, err := os.Stat(filepath.Join(dir, "new")); err != nil {
		t.Error(err)
	} else if owner(st) != 0 {
		t.Errorf("a file made through the mapped mount belongs to %d on the host", owner(st))
	}
	if st, err := n.Runtime.ContainerStats(t.Context(), id); err != nil || st.Memory.UsageBytes.GetValue() == 0 {
		t.Errorf("stats: %v, %v", st, err)
	}
}

// A container may join the PID namespace of another of its pod, and of no other.
func TestPIDTarget(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("target", n.Dir))
	target := p.Start(harness.Command("target", "sleep 4711"))
	join := harness.Command("join", "sleep 1000")
	join.Linux.SecurityContext.NamespaceOptions = &rt.NamespaceOption{Pid: rt.NamespaceMode_TARGET, TargetId: target}
	id := p.Start(join)
	if got := n.Exec(t, id, "sh", "-c", "ps | grep -c '[4]711'"); strings.TrimSpace(got) == "0" {
		t.Errorf("the target's process is not seen: %q", got)
	}
	if a, b := n.Exec(t, id, "readlink", "/proc/self/ns/pid"), n.Exec(t, target, "readlink", "/proc/self/ns/pid"); a != b {
		t.Errorf("PID namespaces %q and %q", a, b)
	}
	q := n.Run(t, harness.PodConfig("elsewhere", n.Dir))
	if _, err := n.Runtime.CreateContainer(t.Context(), q.ID, join, q.Config); err == nil {
		t.Error("a container of another pod was taken for a target")
	}
}

// Capabilities: the default set, what is added and dropped, nothing inheritable; ambient ones when asked for.
func TestCapabilities(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("caps", n.Dir))
	read := func(name string, caps *rt.Capability, uid int64) map[string]string {
		cfg := harness.Command(name, "sleep 1000")
		cfg.Linux.SecurityContext.Capabilities = caps
		cfg.Linux.SecurityContext.RunAsUser = &rt.Int64Value{Value: uid}
		out := map[string]string{}
		for l := range strings.Lines(n.Exec(t, p.Start(cfg), "grep", "Cap", "/proc/1/status")) {
			k, v, _ := strings.Cut(l, ":")
			out[k] = strings.TrimSpace(v)
		}
		return out
	}
	const chown, netAdmin, none = "0000000000000001", "0000000000001000", "0000000000000000"
	def := read("default", nil, 0)
	if def["CapInh"] != none || def["CapAmb"] != none || def["CapEff"] == none || def["CapEff"] != def["CapBnd"] {
		t.Errorf("default: %v", def)
	}
	if c := read("one", &rt.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"CHOWN"}}, 0); c["CapEff"] != chown || c["CapBnd"] != chown {
		t.Errorf("drop all, add one: %v", c)
	}
	if c := read("ambient", &rt.Capability{DropCapabilities: []string{"ALL"}, AddCapabilities: []string{"NET_ADMIN"}, AddAmbientCapabilities: []string{"NET_ADMIN"}}, 1000); c["CapEff"] != netAdmin || c["CapAmb"] != netAdmin {
		t.Errorf("ambient: %v", c)
	}
	bad := harness.Command("bad", "sleep 1000")
	bad.Linux.SecurityContext.Capabilities = &rt.Capability{AddCapabilities: []string{"NO_SUCH"}}
	if _, err := n.Runtime.CreateContainer(t.Context(), p.ID, bad, p.Config); err == nil || !strings.Contains(err.Error(), "NO_SUCH") {
		t.Errorf("unknown capability: %v", err)
	}
}

// Additional groups by policy, and status says who the container is.
func TestGroups(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("groups", n.Dir))
	const image = "gcr.io/k8s-staging-cri-tools/test-image-predefined-group:latest"
	for policy, want := range map[rt.SupplementalGroupsPolicy]string{rt.SupplementalGroupsPolicy_Merge: "1000 50000 60000", rt.SupplementalGroupsPolicy_Strict: "1000 60000"} {
		cfg := harness.Command(strings.ToLower(policy.String()), "sleep 1000")
		cfg.Image.Image = image
		sc := cfg.Linux.SecurityContext
		sc.RunAsUser, sc.SupplementalGroups, sc.SupplementalGroupsPolicy = &rt.Int64Value{Value: 1000}, []int64{60000}, policy
		id := p.Start(cfg)
		if got := strings.TrimSpace(n.Exec(t, id, "id", "-G")); got != want {
			t.Errorf("%v: groups %q, want %q", policy, got, want)
		}
		if u := n.Status(t, id).GetUser().GetLinux(); u.GetUid() != 1000 || u.GetGid() != 1000 || len(u.GetSupplementalGroups()) != len(strings.Fields(want)) {
			t.Errorf("%v: status says %v", policy, u)
		}
	}
}

// Paths are hidden and write-protected as asked, no more and no fewer.
func TestMaskedPaths(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("masked", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Linux.SecurityContext.MaskedPaths = []string{"/proc/timer_list", "/etc/ssl", "/not/there", "/proc/acpi"}
	cfg.Linux.SecurityContext.ReadonlyPaths = []string{"/proc/sys", "/not/there/either"}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"head -c 1 /proc/timer_list | wc -c":                           "0\n",
		"echo 1 2>/dev/null >/proc/sys/net/ipv4/ip_forward || echo ro": "ro\n",
		"head -c 1 /proc/sys/net/ipv4/ip_forward | wc -c":              "1\n",
	})
}

// An image goes with all its names, by any of them, at once; a container goes on without it.
func TestRemoveImage(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("remove", n.Dir))
	const base = "gcr.io/k8s-staging-cri-tools/test-image-tags:"
	for _, tag := range []string{"1", "2", "3"} {
		n.Pull(t, base+tag)
	}
	cfg := harness.Command("c", "sleep 1000")
	cfg.Image.Image = base + "2"
	id := p.Start(cfg)
	if err := n.Images.RemoveImage(t.Context(), &rt.ImageSpec{Image: base + "1"}); err != nil {
		t.Fatal(err)
	}
	for _, tag := range []string{"1", "2", "3"} {
		if s, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: base + tag}, false); err != nil || s.Image != nil {
			t.Errorf("%s after its removal by another name: %v, %v", tag, s, err)
		}
	}
	if got := n.Exec(t, id, "cat", "/name"); got != "tags\n" {
		t.Errorf("the container without its image: %q", got)
	}
	if s := n.Status(t, id); s.ImageId == "" || s.Image.GetImage() == "" {
		t.Errorf("status without the image: %v", s)
	}
	if err := n.Images.RemoveImage(t.Context(), &rt.ImageSpec{Image: base + "1"}); err != nil {
		t.Errorf("again: %v", err)
	}
}
