package contract

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// recording is a daemon whose network plugin writes down what it is told.
func recording(t *testing.T, answer string) *harness.Node {
	return harness.Own(t, harness.Setup{CNI: map[string]string{"10.conflist": harness.Recording},
		Plugins: map[string]string{"recorder": harness.Recorder, "answer": answer}})
}

// network is the condition that kubelet makes the node ready or not by.
func network(t *testing.T, n *harness.Node) *rt.RuntimeCondition {
	t.Helper()
	s, err := n.Runtime.Status(t.Context(), false)
	if err != nil {
		t.Fatal(err)
	}
	var ready *rt.RuntimeCondition
	for _, c := range s.Status.Conditions {
		switch {
		case c.Type == rt.NetworkReady:
			ready = c
		case c.Type == rt.RuntimeReady && !c.Status:
			t.Errorf("the runtime is not ready because its network is not: %v", c)
		}
	}
	if ready == nil {
		t.Fatalf("conditions %v", s.Status.Conditions)
	}
	return ready
}

// The network's condition follows its configuration: none, one that is damaged, a plugin that says it is unwell, one that
// works, none again. Pods of the host's network run all the while.
func TestNetworkReady(t *testing.T) {
	n := harness.Own(t, harness.Setup{Plugins: map[string]string{"recorder": harness.Recorder, "answer": harness.Answer("10.99.0.7/24")}})
	becomes := func(why string, ready bool) {
		t.Helper()
		var c *rt.RuntimeCondition
		harness.Eventually(t, harness.Patience, why, func() bool {
			c = network(t, n)
			return c.Status == ready
		})
		if !ready && (c.Reason != "NetworkPluginNotReady" || c.Message == "") {
			t.Errorf("%s: %v", why, c)
		}
	}
	file := filepath.Join(n.CNI(), "10.conflist")
	put := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	becomes("not ready without a configuration", false)
	if id, err := n.Runtime.RunPodSandbox(t.Context(), harness.PodConfig("early", n.Dir), ""); err == nil || !strings.Contains(err.Error(), "FailedPrecondition") {
		t.Errorf("without a network: pod %q, %v", id, err)
	}
	own := harness.PodConfig("hostnet", n.Dir)
	own.Linux.SecurityContext.NamespaceOptions.Network = rt.NamespaceMode_NODE
	n.Run(t, own)
	put("{")
	becomes("not ready with a damaged configuration", false)
	put(harness.Recording)
	becomes("ready with a configuration", true)
	n.Run(t, harness.PodConfig("pod", n.Dir))
	if err := os.WriteFile(filepath.Join(n.Plugins(), "unwell"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	becomes("not ready while its plugin's STATUS fails", false)
	if c := network(t, n); !strings.Contains(c.Message, "the recorder is unwell") {
		t.Errorf("the plugin's word is lost: %v", c)
	}
	os.Remove(filepath.Join(n.Plugins(), "unwell"))
	becomes("ready again", true)
	if err := os.Remove(file); err != nil {
		t.Fatal(err)
	}
	becomes("not ready when the configuration is gone", false)
	put(harness.Recording)
	becomes("ready when it is back", true)
}

// A pod's addresses: the first IPv4 one first, the rest behind it in the plugin's order; the same after a restart.
func TestAddresses(t *testing.T) {
	n := recording(t, harness.Answer("fd00:99::7/64", "10.99.0.7/24", "fd00:99::8/64", "10.98.0.7/24"))
	p := n.Run(t, harness.PodConfig("addresses", n.Dir))
	check := func(when string) {
		t.Helper()
		s, err := n.Runtime.PodSandboxStatus(t.Context(), p.ID, false)
		if err != nil {
			t.Fatal(err)
		}
		got := []string{s.Status.Network.GetIp()}
		for _, ip := range s.Status.Network.GetAdditionalIps() {
			got = append(got, ip.Ip)
		}
		if want := []string{"10.99.0.7", "10.98.0.7", "fd00:99::7", "fd00:99::8"}; !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", when, got, want)
		}
	}
	check("in the first status")
	if err := n.Kill(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	check("after a restart")
}

// What a network plugin is told of a pod: arguments, capabilities, and at the end the same again.
func TestPluginArguments(t *testing.T) {
	n := recording(t, harness.Answer("10.99.0.7/24"))
	cfg := harness.PodConfig("told", n.Dir)
	cfg.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "2M", "kubernetes.io/egress-bandwidth": "512k", "other": "<&>"}
	cfg.PortMappings = []*rt.PortMapping{{ContainerPort: 80, HostPort: 28091, Protocol: rt.Protocol_TCP}, {ContainerPort: 53, HostPort: 28092, Protocol: rt.Protocol_UDP, HostIp: "127.0.0.1"},
		{ContainerPort: 9, HostPort: 28093, Protocol: rt.Protocol_SCTP, HostIp: "::1"}, {ContainerPort: 7777, Protocol: rt.Protocol_TCP}}
	p := n.Run(t, cfg)
	read := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(n.Plugins(), name))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	args := "CNI_ARGS=IgnoreUnknown=1;K8S_POD_NAMESPACE=e2e;K8S_POD_NAME=told;K8S_POD_INFRA_CONTAINER_ID=" + p.ID + ";K8S_POD_UID=" + cfg.Metadata.Uid + "\n"
	env := read("ADD.env")
	for _, want := range []string{args, "CNI_CONTAINERID=" + p.ID + "\n", "CNI_IFNAME=eth0\n", "CNI_NETNS=/run/netns/berth-" + p.ID + "\n"} {
		if !strings.Contains(env, want) {
			t.Errorf("%q is not in %q", want, env)
		}
	}
	var add struct {
		RuntimeConfig struct {
			PortMappings []struct {
				HostPort, ContainerPort int
				Protocol, HostIP        string
			}
			Bandwidth struct{ IngressRate, IngressBurst, EgressRate, EgressBurst int64 }
			DNS       struct{ Servers, Searches, Options []string }
			Cgroup    string            `json:"cgroupPath"`
			Annotated map[string]string `json:"io.kubernetes.cri.pod-annotations"`
		}
	}
	if err := json.Unmarshal([]byte(read("ADD.json")), &add); err != nil {
		t.Fatal(err)
	}
	r := add.RuntimeConfig
	if got := fmt.Sprint(r.PortMappings); got != "[{28091 80 tcp } {28092 53 udp 127.0.0.1} {28093 9 sctp ::1}]" {
		t.Errorf("port mappings %s", got)
	}
	if b := r.Bandwidth; b.IngressRate != 2_000_000 || b.EgressRate != 512_000 || b.IngressBurst == 0 || b.EgressBurst == 0 {
		t.Errorf("bandwidth %+v", b)
	}
	if got := fmt.Sprint(r.DNS); got != "{[10.0.0.10] [e2e.svc] [ndots:5]}" {
		t.Errorf("dns %s", got)
	}
	if r.Cgroup != cfg.Linux.CgroupParent || len(r.Annotated) != 3 || r.Annotated["other"] != "<&>" {
		t.Errorf("cgroup %q, annotations %q", r.Cgroup, r.Annotated)
	}
	if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	if env := read("DEL.env"); !strings.Contains(env, args) || !strings.Contains(env, "CNI_NETNS=/run/netns/berth-"+p.ID+"\n") {
		t.Errorf("DEL was told %q", env)
	}
	if del := read("DEL.json"); !strings.Contains(del, "28093") || !strings.Contains(del, `"prevResult"`) || !strings.Contains(del, "10.99.0.7") {
		t.Errorf("DEL was given %s", del)
	}
	bad := harness.PodConfig("bandwidth", n.Dir)
	bad.Annotations = map[string]string{"kubernetes.io/ingress-bandwidth": "fast"}
	if id, err := n.Runtime.RunPodSandbox(t.Context(), bad, ""); err == nil || !strings.Contains(err.Error(), "fast") {
		t.Errorf("bandwidth \"fast\": pod %q, %v", id, err)
	}
}

// outside is a machine beside the node: another network namespace that reaches it by 192.0.2.1 and 2001:db8::1.
func outside(t *testing.T) string {
	t.Helper()
	const name = "outside"
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			t.Fatalf("ip %q: %v: %s", args, err, out)
		}
	}
	run("netns", "add", name)
	t.Cleanup(func() {
		exec.Command("ip", "link", "del", "outside0").Run()
		exec.Command("ip", "netns", "del", name).Run()
	})
	run("link", "add", "outside0", "type", "veth", "peer", "name", "eth0", "netns", name)
	run("addr", "add", "192.0.2.1/24", "dev", "outside0")
	run("addr", "add", "2001:db8::1/64", "dev", "outside0", "nodad")
	run("link", "set", "outside0", "up")
	run("-n", name, "addr", "add", "192.0.2.9/24", "dev", "eth0")
	run("-n", name, "addr", "add", "2001:db8::9/64", "dev", "eth0", "nodad")
	run("-n", name, "link", "set", "lo", "up")
	run("-n", name, "link", "set", "eth0", "up")
	return name
}

// dual is the built-in plugin with both families, configured as any plugin is.
func dual(stateDir string) string {
	return fmt.Sprintf(`{"cniVersion":"1.1.0","name":"dual","plugins":[{"type":"berth-bridge","bridge":"berth-dual","subnet":"10.231.0.0/24",
"subnet6":"fd00:231::/112","stateDir":%q,"capabilities":{"portMappings":true}}]}`, stateDir)
}

// Host ports of every protocol, family and address, from the node, from outside and from the pod itself; none when the pod is
// stopped.
func TestHostPorts(t *testing.T) {
	n := harness.Own(t, harness.Setup{})
	if err := os.WriteFile(filepath.Join(n.CNI(), "10.conflist"), []byte(dual(filepath.Join(n.Dir, "bridge"))), 0o644); err != nil {
		t.Fatal(err)
	}
	away := outside(t)
	cfg := harness.PodConfig("ports", n.Dir)
	type ask struct {
		from, proto, addr string
		answers           bool
	}
	var asks []ask
	protocols := map[string]rt.Protocol{"tcp": rt.Protocol_TCP, "udp": rt.Protocol_UDP}
	if harness.HasSCTP() {
		protocols["sctp"] = rt.Protocol_SCTP
	} else {
		t.Log("this kernel has no SCTP: not tried")
	}
	port := int32(28100)
	for name, proto := range protocols {
		for _, hostIP := range []string{"", "0.0.0.0", "::", "127.0.0.1", "::1", "192.0.2.1", "2001:db8::1"} {
			port++
			cfg.PortMappings = append(cfg.PortMappings, &rt.PortMapping{Protocol: proto, HostIp: hostIP, HostPort: port, ContainerPort: 7000})
			for _, a := range []struct{ from, ip string }{{"", "127.0.0.1"}, {"", "[::1]"}, {"", "192.0.2.1"}, {away, "192.0.2.1"}, {away, "[2001:db8::1]"}} {
				plain, v6 := strings.Trim(a.ip, "[]"), strings.Contains(a.ip, ":")
				ok := hostIP == "" || hostIP == plain || hostIP == "0.0.0.0" && !v6 || hostIP == "::" && v6
				ok = ok && plain != "::1" // there is no route_localnet for IPv6: what goes to ::1 can't leave lo
				asks = append(asks, ask{a.from, name, fmt.Sprintf("%s:%d", a.ip, port), ok})
			}
		}
	}
	p := n.Run(t, cfg)
	for name := range protocols {
		p.Start(harness.Probe(t, name, "serve", name, "7000"))
	}
	for _, a := range asks {
		try := func() bool {
			got, err := harness.Ask(a.from, a.proto, a.addr)
			return err == nil && strings.HasPrefix(got, "7000 sees ")
		}
		if a.answers {
			harness.Eventually(t, harness.Patience, fmt.Sprintf("%s %s from %q answers", a.proto, a.addr, a.from), try)
		} else if a.proto == "tcp" && try() { // what is not there is refused at once by TCP alone
			t.Errorf("%s %s from %q answers and should not", a.proto, a.addr, a.from)
		}
	}
	// The pod reaches itself by the node's address.
	hair := harness.Probe(t, "hair", "ask", "tcp", fmt.Sprintf("192.0.2.1:%d", cfg.PortMappings[slices.IndexFunc(cfg.PortMappings, func(m *rt.PortMapping) bool {
		return m.Protocol == rt.Protocol_TCP && m.HostIp == ""
	})].HostPort))
	if s := n.Exited(t, p.Start(hair)); s.ExitCode != 0 {
		t.Errorf("the pod does not reach itself by its host port: %s", p.Log("hair.log", "stderr"))
	}
	if err := n.Runtime.StopPodSandbox(t.Context(), p.ID); err != nil {
		t.Fatal(err)
	}
	for _, a := range asks {
		if a.proto == "tcp" && a.answers {
			if got, err := harness.Ask(a.from, a.proto, a.addr); err == nil {
				t.Errorf("%s answers %q after the pod's end", a.addr, got)
			}
		}
	}
}
