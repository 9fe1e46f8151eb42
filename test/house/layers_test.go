package house

import (
	"strconv"
	"strings"
	"testing"
)

// policy is the whole import policy of what is not a test. "a, b < c" says that c may import a and b, and what a and b
// may import. The standard library is open to all. A name with a dot in its first element is a module, with all its
// packages; any other is a package of ours. What is not said here is forbidden.
//
// This is a statement of what the house is. Do not edit it to make a build pass: it changes with ARCHITECTURE.md,
// in the same commit, for a reason given there.
const policy = `
# One subject each: the kernel's side.
golang.org/x/sys
	< oci/cgroup, sandbox/monitor/wire, sandbox/ns/hold, image/layer, image/overlay;
sandbox/ns/hold < sandbox/ns;
sandbox/monitor/wire < sandbox/monitor, sandbox/monitor/loop;
golang.org/x/sys < oci/cgroup/systemd;
oci/cgroup/systemd < oci/cgroup;

# The OCI runtime specification.
github.com/opencontainers/runtime-spec < oci, sandbox/compile;
golang.org/x/sys < oci/launch/program, oci/launch/spawn;
oci/launch/program < oci/launch/become;
oci/launch/become, oci/launch/spawn, oci/launch/seccomp < oci/launch/quick;
oci/launch/quick < cmd/berth-oci;
oci/launch/nofile < cmd/berth-oci, oci/launch, oci/launch/plan;
oci/launch/program < oci/launch/hook;
golang.org/x/sys, github.com/opencontainers/runtime-spec < oci/launch/seccomp;
oci/launch/hook, oci/launch/seccomp, oci/launch/become < oci/launch/inside;
golang.org/x/sys, github.com/opencontainers/runtime-spec < oci/launch/resctrl;
oci/launch/hook, oci/launch/resctrl, oci/cgroup < oci/launch/state;
github.com/opencontainers/runtime-spec, oci/cgroup, oci/launch/hook < oci/launch/plan;
golang.org/x/sys < oci/launch/netdevice;
oci/launch/become, oci/launch/plan, oci/launch/inside, oci/launch/spawn, oci/launch/state, oci/launch/netdevice, oci/cgroup < oci/launch;
oci, oci/launch, oci/launch/criu < cmd/berth-oci;
oci/launch < oci;

# Images.
github.com/klauspost/compress, github.com/opencontainers/go-digest < image/layer;
github.com/opencontainers/image-spec, github.com/opencontainers/go-digest, github.com/containerd/containerd,
github.com/containerd/errdefs, github.com/containerd/platforms, github.com/containerd/log, github.com/sirupsen/logrus,
github.com/distribution/reference, github.com/pelletier/go-toml, github.com/BurntSushi/toml, golang.org/x/sync
	< image/registry;
image/registry, image/layer, image/overlay < image;

# Networking.
github.com/containernetworking/cni, golang.org/x/sys < netplugin;
github.com/containernetworking/cni, github.com/vishvananda/netlink, github.com/vishvananda/netns,
github.com/google/nftables, github.com/mdlayher/netlink, golang.org/x/sys
	< netplugin/bridge;

# Programs of one leaf.
sandbox/monitor/loop, sandbox/monitor/wire, sandbox/ns/hold < cmd/berth-monitor;
netplugin/bridge < cmd/berth-bridge;

# From the leaves up. The messages are protobuf.
google.golang.org/protobuf < k8s.io/cri-api;
k8s.io/cri-api, github.com/opencontainers/runtime-spec, github.com/moby/profiles < sandbox/compile;
github.com/containerd/cgroups, golang.org/x/sys, sandbox/compile < sandbox/host;
k8s.io/cri-api < sandbox/event;
golang.org/x/sys < sandbox/checkpoint;
k8s.io/cri-api, oci/cgroup, sandbox/ns < sandbox/metrics;
tags.cncf.io/container-device-interface, github.com/opencontainers/runtime-spec < sandbox/cdi;
golang.org/x/sync, k8s.io/cri-api < sandbox;
image, netplugin, oci, oci/cgroup, sandbox/ns, sandbox/monitor, sandbox/compile < sandbox;
oci, sandbox/host, sandbox/ns < sandbox/handler;
sandbox/cdi, sandbox/checkpoint, sandbox/handler, sandbox/host, sandbox/event, sandbox/metrics, sandbox/operation < sandbox;
k8s.io/cri-streaming, k8s.io/streaming, k8s.io/apimachinery, k8s.io/utils, k8s.io/klog, github.com/gorilla/websocket, sandbox < cri/stream;
google.golang.org/grpc, sandbox, cri/stream < cri;
cri, oci/apparmor, github.com/BurntSushi/toml, google.golang.org/grpc, golang.org/x/sync < cmd/berth;
`

// never are arrows that must not exist even though the table's transitivity would allow them: from (with all below it), to.
func never() [][2]string {
	return [][2]string{
		{"cri", "oci"}, {"cri", "sandbox/monitor"}, {"cri", "sandbox/ns"}, {"cri", "sandbox/compile"},
		{"image", "k8s.io"}, {"netplugin", "k8s.io"}, {"oci", "k8s.io"}, {"sandbox/monitor", "k8s.io"}, {"sandbox/ns", "k8s.io"},
		{"sandbox", "google.golang.org/grpc"}, {"image", "google.golang.org/grpc"}, {"netplugin", "google.golang.org/grpc"}, {"oci", "google.golang.org/grpc"},
		{"sandbox/monitor", "encoding/gob"}, {"sandbox/monitor/loop", "net"}, {"sandbox/monitor/loop", "os/exec"}, {"sandbox/ns/hold", "net"},
		{"cmd/berth-monitor", "flag"}, {"cmd/berth-monitor", "net"},
	}
}

// parsePolicy returns for each name what it may import, closed under "and what those may import".
func parsePolicy(t *testing.T, text string) map[string]map[string]bool {
	t.Helper()
	direct := map[string]map[string]bool{}
	var clean strings.Builder
	for l := range strings.Lines(text) {
		l, _, _ = strings.Cut(l, "#")
		clean.WriteString(l + "\n")
	}
	for _, rule := range strings.Split(clean.String(), ";") {
		if strings.TrimSpace(rule) == "" {
			continue
		}
		below, above, ok := strings.Cut(rule, "<")
		if !ok {
			t.Fatalf("policy: no < in %q", rule)
		}
		for _, a := range strings.Split(above, ",") {
			a = strings.TrimSpace(a)
			if direct[a] == nil {
				direct[a] = map[string]bool{}
			}
			for _, b := range strings.Split(below, ",") {
				b = strings.TrimSpace(b)
				direct[a][b] = true
				if direct[b] == nil {
					direct[b] = map[string]bool{}
				}
			}
		}
	}
	out := map[string]map[string]bool{}
	for a := range direct {
		out[a] = map[string]bool{}
		reach(t, direct, a, a, out[a])
	}
	return out
}

func reach(t *testing.T, direct map[string]map[string]bool, from, at string, seen map[string]bool) {
	for b := range direct[at] {
		if b == from {
			t.Fatalf("policy: %s is below itself", from)
		}
		if !seen[b] {
			seen[b] = true
			reach(t, direct, from, b, seen)
		}
	}
}

func within(name, prefix string) bool { return name == prefix || strings.HasPrefix(name, prefix+"/") }

func layers(t *testing.T) {
	may := parsePolicy(t, policy)
	for _, p := range product(t) {
		if within(p.dir, "test") || within(p.dir, "hack") || len(p.code()) == 0 {
			continue
		}
		if may[p.dir] == nil {
			offend(t, "layers", p.dir, p.dir, "package is not in the import policy")
			continue
		}
		for _, f := range p.code() {
			for _, im := range f.ast.Imports {
				name, err := strconv.Unquote(im.Path.Value)
				if err != nil {
					t.Fatal(err)
				}
				checkImport(t, may, p.dir, strings.TrimPrefix(name, module+"/"), f.at(im.Pos()))
			}
		}
	}
}

func checkImport(t *testing.T, may map[string]map[string]bool, from, to, where string) {
	t.Helper()
	for _, n := range never() {
		if within(from, n[0]) && within(to, n[1]) && !within(n[1], from) {
			offend(t, "layers", from+" -> "+to, where, "this arrow must not exist")
			return
		}
	}
	first, _, _ := strings.Cut(to, "/")
	ours := may[to] != nil || within(first, "cri") || within(first, "sandbox") || within(first, "image") || within(first, "oci") || within(first, "netplugin") || within(first, "cmd") || within(first, "test")
	if !ours && !strings.Contains(first, ".") {
		return // standard library
	}
	for b := range may[from] {
		if to == b || !ours && within(to, b) {
			return
		}
	}
	offend(t, "layers", from+" -> "+to, where, "the import policy has no such arrow")
}

// TestPolicyBites proves that the parser of the table refuses what the table does not say.
func TestPolicyBites(t *testing.T) {
	may := parsePolicy(t, "a.b/x < oci; oci < sandbox; sandbox < cri;")
	if !may["cri"]["a.b/x"] || may["oci"]["sandbox"] || may["oci"]["cri"] {
		t.Error("order is not read as written")
	}
}
