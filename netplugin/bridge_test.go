package netplugin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// wire is berth-bridge with one network, called as a runtime does.
type wire struct {
	t      testing.TB
	bin    string
	bridge string
	conf   map[string]any
	state  string
}

// newWire describes a network of a range. n must differ between tests that run at once.
func newWire(t testing.TB, n int, subnet, subnet6 string) *wire {
	t.Helper()
	w := &wire{t: t, bin: filepath.Join(bridgeDir(t), "berth-bridge"), bridge: fmt.Sprintf("bt%d", n), state: t.TempDir()}
	w.conf = map[string]any{"cniVersion": "1.1.0", "name": "net", "type": "berth-bridge", "bridge": w.bridge, "stateDir": w.state, "lazyLinks": true}
	if subnet != "" {
		w.conf["subnet"] = subnet
	}
	if subnet6 != "" {
		w.conf["subnet6"] = subnet6
	}
	t.Cleanup(func() {
		if _, err := w.run("GC", "", "", nil); err != nil {
			t.Errorf("GC at the end: %v", err)
		}
	})
	return w
}

type answerIP struct{ Address, Gateway string }

// run executes the plugin; the error holds what it printed.
func (w *wire) run(command, id, netns string, more map[string]any) (string, error) {
	conf := map[string]any{}
	for _, m := range []map[string]any{w.conf, more} {
		for k, v := range m {
			conf[k] = v
		}
	}
	in, err := json.Marshal(conf)
	if err != nil {
		return "", err
	}
	c := exec.Command(w.bin)
	c.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + netns, "CNI_IFNAME=eth0", "CNI_PATH=/nowhere"}
	c.Stdin = strings.NewReader(string(in))
	out, err := c.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%s %s: %w: %s", command, id, err, out)
	}
	return string(out), nil
}

// add attaches and returns the pod's addresses.
func (w *wire) add(id, netns string, ports ...map[string]any) []netip.Addr {
	w.t.Helper()
	out, err := w.run("ADD", id, netns, mappings(ports...))
	if err != nil {
		w.t.Fatal(err)
	}
	return addrs(w.t, out)
}

func addrs(t testing.TB, out string) []netip.Addr {
	t.Helper()
	var res struct{ IPs []answerIP }
	if err := json.Unmarshal([]byte(out), &res); err != nil {
		t.Fatal(err)
	}
	var ips []netip.Addr
	for _, ip := range res.IPs {
		ips = append(ips, netip.MustParsePrefix(ip.Address).Addr())
	}
	return ips
}

func (w *wire) del(id, netns string, ports ...map[string]any) {
	w.t.Helper()
	if out, err := w.run("DEL", id, netns, mappings(ports...)); err != nil || out != "" {
		w.t.Fatalf("DEL: %q, %v", out, err)
	}
}

func mappings(ports ...map[string]any) map[string]any {
	return map[string]any{"runtimeConfig": map[string]any{"portMappings": ports}}
}

func port(host, pod int, proto, ip string) map[string]any {
	return map[string]any{"hostPort": host, "containerPort": pod, "protocol": proto, "hostIP": ip}
}

// leases lists the plugin's records.
func (w *wire) leases() []string {
	w.t.Helper()
	names, err := filepath.Glob(filepath.Join(w.state, "net", "*@*"))
	if err != nil {
		w.t.Fatal(err)
	}
	return names
}

// serve answers in a namespace with the caller's address, and a name, over TCP and UDP.
func serve(t testing.TB, netns, name string, port int) {
	t.Helper()
	inNS(t, netns, func() error {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		u, err := net.ListenPacket("udp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		t.Cleanup(func() { l.Close(); u.Close() })
		// ends when the listener is closed
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintf(c, "%s %s", name, c.RemoteAddr())
				c.Close()
			}
		}()
		// ends when the socket is closed
		go func() {
			b := make([]byte, 1500)
			for {
				_, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(fmt.Appendf(nil, "%s %s", name, from), from)
			}
		}()
		return nil
	})
}

// ask calls an address from a namespace and returns who answered and the address the call came from.
func ask(t testing.TB, netns, network, addr string) (name string, from netip.Addr, err error) {
	t.Helper()
	var answer []byte
	inNS(t, netns, func() error {
		var c net.Conn
		if c, err = net.DialTimeout(network, addr, time.Second); err != nil {
			return nil
		}
		defer c.Close()
		_ = c.SetDeadline(time.Now().Add(time.Second))
		if network == "udp" {
			_, _ = c.Write([]byte("x"))
			answer = make([]byte, 1500)
			var n int
			n, err = c.Read(answer)
			answer = answer[:n]
		} else {
			answer, err = io.ReadAll(c)
		}
		return nil
	})
	if err != nil {
		return "", netip.Addr{}, err
	}
	name, rest, _ := strings.Cut(string(answer), " ")
	ap, err := netip.ParseAddrPort(rest)
	return name, ap.Addr().Unmap(), err
}

func expectAnswer(t testing.TB, netns, network, addr, name string) netip.Addr {
	t.Helper()
	got, from, err := ask(t, netns, network, addr)
	if err != nil || got != name {
		t.Errorf("%s %s: answer of %q (%v), want of %q", network, addr, got, err, name)
	}
	return from
}

func expectNone(t testing.TB, netns, network, addr string) {
	t.Helper()
	if got, _, err := ask(t, netns, network, addr); err == nil {
		t.Errorf("%s %s: answer of %q, want none", network, addr, got)
	}
}

func TestBridgeConnects(t *testing.T) {
	w := newWire(t, 1, "10.201.0.0/24", "fd00:201::/64")
	before := snapshot(t)
	a, b := newNS(t), newNS(t)
	ports := []map[string]any{port(8080, 80, "tcp", ""), port(8080, 80, "udp", ""), port(8081, 80, "tcp", "127.0.0.1"), port(8082, 80, "sctp", "")}
	ipA := w.add("a", a, ports...)
	ipB := w.add("b", b)
	if fmt.Sprint(ipA, ipB) != "[10.201.0.2 fd00:201::2] [10.201.0.3 fd00:201::3]" {
		t.Fatalf("addresses %v %v", ipA, ipB)
	}
	serve(t, a, "a", 80)
	serve(t, b, "b", 80)
	for _, network := range []string{"tcp", "udp"} {
		for i := range ipA {
			to := netip.AddrPortFrom(ipA[i], 80).String()
			if from := expectAnswer(t, b, network, to, "a"); from != ipB[i] {
				t.Errorf("pod to pod: called from %s, want %s", from, ipB[i])
			}
			expectAnswer(t, "", network, to, "a")
		}
		gateways := []string{"10.201.0.1:8080", "[fd00:201::1]:8080"}
		for _, to := range gateways {
			expectAnswer(t, "", network, to, "a") // host to its own address
			expectAnswer(t, b, network, to, "a")  // neighbour
			expectAnswer(t, a, network, to, "a")  // the pod itself: hairpin
		}
		expectAnswer(t, "", network, "127.0.0.1:8080", "a")
	}
	expectAnswer(t, "", "tcp", "127.0.0.1:8081", "a")
	expectNone(t, "", "tcp", "10.201.0.1:8081")
	if _, err := w.run("CHECK", "a", a, mappings(ports...)); err != nil {
		t.Error(err)
	}
	if _, err := w.run("CHECK", "absent", a, nil); err == nil {
		t.Error("CHECK of an absent attachment succeeded")
	}
	for range 2 {
		w.del("a", a, ports...)
	}
	expectNone(t, "", "tcp", "127.0.0.1:8080")
	dropNS(b)
	w.del("b", b)
	w.del("b", "")
	dropNS(a)
	if l := w.leases(); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
	if out, _ := exec.Command("nft", "list", "table", "inet", w.bridge).Output(); strings.Contains(string(out), "elements") {
		t.Errorf("elements left:\n%s", out)
	}
	if _, err := w.run("GC", "", "", nil); err != nil {
		t.Error(err)
	}
	waitFor(t, "links and rules as before", func() bool { return snapshot(t) == before })
}

func waitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(3 * time.Second); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not so after 3 s: %s", what)
			return
		}
	}
}

// TestBridgeMasquerades has a host behind this one: pods reach it from this host's address, and their ports from there.
func TestBridgeMasquerades(t *testing.T) {
	w := newWire(t, 2, "10.202.0.0/24", "")
	outside, a := newNS(t), newNS(t)
	far := newWire(t, 3, "10.203.0.0/24", "")
	ipOut := far.add("outside", outside)
	w.add("a", a, port(8090, 80, "tcp", ""), port(8090, 80, "udp", ""))
	serve(t, outside, "outside", 80)
	serve(t, a, "a", 80)
	for _, network := range []string{"tcp", "udp"} {
		from := expectAnswer(t, a, network, netip.AddrPortFrom(ipOut[0], 80).String(), "outside")
		if want := netip.MustParseAddr("10.203.0.1"); from != want {
			t.Errorf("%s: called from %s, want %s", network, from, want)
		}
		expectAnswer(t, outside, network, "10.203.0.1:8090", "a")
	}
}

// TestBridgeGuardsLoopback has a pod send to the host's 127.0.0.1, which route_localnet alone would let in.
func TestBridgeGuardsLoopback(t *testing.T) {
	w := newWire(t, 15, "10.215.0.0/24", "")
	a := newNS(t)
	w.add("a", a)
	l, err := net.ListenPacket("udp", "127.0.0.1:7777")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	script := "ip addr del 127.0.0.1/8 dev lo && ip route add 127.0.0.0/8 via 10.215.0.1"
	inNS(t, a, func() error {
		if out, err := exec.Command("sh", "-c", script).CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", script, err, out)
		}
		return os.WriteFile("/proc/sys/net/ipv4/conf/eth0/route_localnet", []byte("1"), 0)
	})
	arrives := func() bool {
		inNS(t, a, func() error {
			c, err := net.Dial("udp", "127.0.0.1:7777")
			if err != nil {
				return err
			}
			defer c.Close()
			_, err = c.Write([]byte("x"))
			return err
		})
		_ = l.SetReadDeadline(time.Now().Add(300 * time.Millisecond))
		_, _, err := l.ReadFrom(make([]byte, 10))
		return err == nil
	}
	if arrives() {
		t.Error("a pod reached 127.0.0.1 of the host")
	}
	if exec.Command("nft", "flush", "chain", "inet", w.bridge, "guard").Run() == nil {
		waitFor(t, "without the guard it arrives", arrives) // else this test shows nothing
	}
}

func TestBridgePortConflict(t *testing.T) {
	w := newWire(t, 4, "10.204.0.0/24", "")
	a, b := newNS(t), newNS(t)
	w.add("a", a, port(8100, 80, "tcp", ""))
	serve(t, a, "a", 80)
	_, err := w.run("ADD", "b", b, mappings(port(8101, 80, "tcp", ""), port(8100, 80, "tcp", "")))
	if err == nil || !strings.Contains(err.Error(), "host port  8100/tcp leads to 10.204.0.2") {
		t.Errorf("error %v", err)
	}
	w.del("b", b, port(8100, 80, "tcp", ""))
	expectAnswer(t, "", "tcp", "127.0.0.1:8100", "a")
	expectNone(t, "", "tcp", "127.0.0.1:8101")
	if l := w.leases(); len(l) != 1 {
		t.Errorf("leases %v, want one", l)
	}
}

// TestBridgeUDPMoves moves a host port to another pod under a client that never stops.
func TestBridgeUDPMoves(t *testing.T) {
	w := newWire(t, 5, "10.205.0.0/24", "")
	a, b := newNS(t), newNS(t)
	p := port(8110, 80, "udp", "")
	w.add("a", a, p)
	w.add("b", b)
	serve(t, a, "a", 80)
	serve(t, b, "b", 80)
	c, err := net.Dial("udp", "10.205.0.1:8110")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	who := func() string {
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = c.Write([]byte("x"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		if err != nil {
			return ""
		}
		name, _, _ := strings.Cut(string(buf[:n]), " ")
		return name
	}
	if got := who(); got != "a" {
		t.Fatalf("answer of %q, want of a", got)
	}
	w.del("a", a, p)
	if got := who(); got != "" {
		t.Errorf("answer of %q after DEL", got)
	}
	w.del("b", b)
	w.add("b", b, p)
	waitFor(t, "answer of b", func() bool { return who() == "b" })
}

// TestBridgeReusesFirstInFirstOut fills a small range and goes round it.
func TestBridgeReusesFirstInFirstOut(t *testing.T) {
	w := newWire(t, 6, "10.206.0.0/29", "") // pods: .2 to .6
	var last []string
	for i := range 12 {
		ns, id := newNS(t), fmt.Sprintf("p%d", i)
		ip := w.add(id, ns)[0].String()
		w.del(id, ns)
		last = append(last, strings.TrimPrefix(ip, "10.206.0."))
	}
	if got := strings.Join(last, " "); got != "2 3 4 5 6 2 3 4 5 6 2 3" {
		t.Errorf("addresses %s", got)
	}
	var held []string
	for i := range 5 {
		id, ns := fmt.Sprintf("h%d", i), newNS(t)
		held = append(held, id)
		w.add(id, ns)
	}
	_, err := w.run("ADD", "more", newNS(t), nil)
	if err == nil || !strings.Contains(err.Error(), "no addresses left in 10.206.0.0/29") {
		t.Errorf("error %v", err)
	}
	// Returned in this order, used again in this order.
	for _, i := range []int{3, 1} {
		w.del(held[i], "")
	}
	if a, b := w.add("n0", newNS(t)), w.add("n1", newNS(t)); fmt.Sprint(a, b) != "[10.206.0.2] [10.206.0.5]" {
		t.Errorf("addresses %s %s", a, b)
	}
}

func TestBridgeChurn(t *testing.T) {
	w := newWire(t, 7, "10.207.0.0/20", "")
	seen := map[netip.Addr]bool{}
	for i := range 100 {
		ns, id := newNS(t), fmt.Sprintf("c%d", i)
		ip := w.add(id, ns, port(9000, 80, "tcp", ""))[0]
		if seen[ip] {
			t.Fatalf("address %s again after %d", ip, i)
		}
		seen[ip] = true
		w.del(id, ns, port(9000, 80, "tcp", ""))
		dropNS(ns)
	}
	if l := w.leases(); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
	waitFor(t, "links gone", func() bool { return !strings.Contains(snapshot(t), "link veth") })
}

func TestBridgeConcurrently(t *testing.T) {
	w := newWire(t, 8, "10.208.0.0/24", "fd00:208::/64")
	const workers, each = 8, 4
	var mu sync.Mutex
	seen := map[netip.Addr]string{}
	var spaces [workers][each]string
	for i := range spaces {
		for j := range spaces[i] {
			spaces[i][j] = newNS(t)
		}
	}
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				id := fmt.Sprintf("w%d-%d", i, j)
				out, err := w.run("ADD", id, spaces[i][j], mappings(port(9100+i*each+j, 80, "tcp", "")))
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				for _, ip := range addrs(t, out) {
					if seen[ip] != "" {
						t.Errorf("address %s of %s and %s", ip, seen[ip], id)
					}
					seen[ip] = id
				}
				mu.Unlock()
			}
		})
	}
	wg.Wait()
	if len(seen) != 2*workers*each || len(w.leases()) != workers*each {
		t.Errorf("%d addresses, %d leases", len(seen), len(w.leases()))
	}
	out, err := exec.Command("nft", "list", "table", "inet", w.bridge).Output()
	if err == nil && strings.Count(string(out), "masquerade") != 6 {
		t.Errorf("rules made more than once:\n%s", out)
	}
	for i := range workers {
		wg.Go(func() {
			for j := range each {
				if _, err := w.run("DEL", fmt.Sprintf("w%d-%d", i, j), spaces[i][j], nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if l := w.leases(); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
}

// TestBridgeKilled kills ADD after ever longer times; DEL, or GC, must find all that it did.
func TestBridgeKilled(t *testing.T) {
	w := newWire(t, 9, "10.209.0.0/24", "")
	before := snapshot(t)
	killed := 0
	for i := range 40 {
		ns, id := newNS(t), fmt.Sprintf("k%d", i)
		in, err := json.Marshal(w.conf)
		if err != nil {
			t.Fatal(err)
		}
		p := mappings(port(9200, 80, "tcp", ""))["runtimeConfig"]
		b, _ := json.Marshal(p)
		in = append(in[:len(in)-1], fmt.Sprintf(`,"runtimeConfig":%s}`, b)...)
		c := exec.Command(w.bin)
		c.Env = []string{"CNI_COMMAND=ADD", "CNI_CONTAINERID=" + id, "CNI_NETNS=" + ns, "CNI_IFNAME=eth0", "CNI_PATH=/x"}
		c.Stdin = strings.NewReader(string(in))
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Duration(i) * 250 * time.Microsecond)
		_ = c.Process.Signal(syscall.SIGKILL)
		if c.Wait() != nil {
			killed++
		}
		if i%2 == 0 {
			w.del(id, ns)
			w.add(id, ns, port(9200, 80, "tcp", "")) // the same pod, tried again in the same namespace
			w.del(id, ns)
		} else if _, err := w.run("GC", "", "", nil); err != nil {
			t.Fatal(err)
		}
		dropNS(ns)
	}
	t.Logf("%d of 40 killed", killed)
	if _, err := w.run("GC", "", "", nil); err != nil {
		t.Fatal(err)
	}
	if l := w.leases(); len(l) != 0 {
		t.Errorf("leases left: %v", l)
	}
	waitFor(t, "links and rules as before", func() bool { return snapshot(t) == before })
}

// TestBridgeGarbage keeps what is valid and gives back the rest.
func TestBridgeGarbage(t *testing.T) {
	w := newWire(t, 10, "10.210.0.0/24", "")
	a, b := newNS(t), newNS(t)
	w.add("a", a, port(9300, 80, "tcp", ""))
	w.add("b", b, port(9301, 80, "tcp", ""))
	serve(t, a, "a", 80)
	serve(t, b, "b", 80)
	valid := map[string]any{"cni.dev/valid-attachments": []map[string]string{{"containerID": "a", "ifname": "eth0"}}}
	if _, err := w.run("GC", "", "", valid); err != nil {
		t.Fatal(err)
	}
	expectAnswer(t, "", "tcp", "127.0.0.1:9300", "a")
	expectNone(t, "", "tcp", "127.0.0.1:9301")
	if l := w.leases(); len(l) != 1 {
		t.Errorf("leases %v, want one", l)
	}
	inNS(t, b, func() error {
		if i, err := net.InterfaceByName("eth0"); err == nil {
			return fmt.Errorf("link %s left in the pod", i.Name)
		}
		return nil
	})
}

// TestBridgeMends has someone flush the rule set and take the bridge's address.
func TestBridgeMends(t *testing.T) {
	w := newWire(t, 11, "10.211.0.0/24", "")
	a := newNS(t)
	w.add("a", a, port(9400, 80, "tcp", ""))
	serve(t, a, "a", 80)
	if err := exec.Command("nft", "delete", "table", "inet", w.bridge).Run(); err != nil {
		t.Skip("needs nft:", err)
	}
	expectNone(t, "", "tcp", "127.0.0.1:9400")
	if _, err := w.run("CHECK", "a", a, mappings(port(9400, 80, "tcp", ""))); err == nil {
		t.Error("CHECK without a table succeeded")
	}
	if _, err := w.run("STATUS", "", "", nil); err != nil {
		t.Fatal(err)
	}
	expectAnswer(t, "", "tcp", "127.0.0.1:9400", "a")
}

// TestBridgeDeletesLinks is DEL without lazyLinks, for a namespace that stays.
func TestBridgeDeletesLinks(t *testing.T) {
	w := newWire(t, 12, "10.212.0.0/24", "")
	w.conf["lazyLinks"] = false
	a := newNS(t)
	w.add("a", a)
	w.del("a", a)
	inNS(t, a, func() error {
		if i, err := net.InterfaceByName("eth0"); err == nil {
			return fmt.Errorf("link %s left in the pod", i.Name)
		}
		return nil
	})
}

func TestBridgeVersions(t *testing.T) {
	w := newWire(t, 13, "10.213.0.0/24", "")
	for _, v := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		ns := newNS(t)
		w.conf["cniVersion"] = v
		out, err := w.run("ADD", "v"+v, ns, nil)
		if err != nil || !strings.Contains(out, `"cniVersion": "`+v+`"`) {
			t.Errorf("ADD in version %s: %s %v", v, out, err)
		}
		w.del("v"+v, ns)
	}
	w.conf["cniVersion"] = "1.1.0"
}

func TestBridgeRefuses(t *testing.T) {
	w := newWire(t, 14, "10.214.0.0/24", "")
	ns := newNS(t)
	w.add("a", ns)
	for name, c := range map[string]struct {
		more map[string]any
		want string
	}{
		"twice":           {nil, "exists"},
		"no range":        {map[string]any{"subnet": nil}, "neither subnet nor subnet6"},
		"tiny range":      {map[string]any{"subnet": "10.0.0.0/31"}, "is not an IPv4 range"},
		"relative state":  {map[string]any{"stateDir": "x"}, "is not absolute"},
		"long name":       {map[string]any{"bridge": "sixteen-bytes-ok"}, "longer than 15"},
		"bad protocol":    {mappings(port(1, 1, "icmp", "")), "port mapping protocol"},
		"bad host":        {mappings(port(1, 1, "tcp", "x")), "hostIP"},
		"overlapping one": {map[string]any{"bridge": "bt-other", "stateDir": t.TempDir()}, "overlaps address 10.214.0.1/24"},
	} {
		if _, err := w.run("ADD", "a", ns, c.more); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %q", name, err, c.want)
		}
	}
	if _, err := w.run("ADD", "b", "/nowhere", nil); err == nil {
		t.Error("ADD without a namespace succeeded")
	}
	if _, err := os.Stat("/sys/class/net/bt-other"); err == nil {
		t.Error("refused bridge was made")
	}
}
