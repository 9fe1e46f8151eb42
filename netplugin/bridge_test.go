package netplugin_test

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"
)

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
	var err error
	for range 5 { // a busy machine may be slower than the patience of one call
		if _, _, err = ask(t, "", "tcp", "[::1]:8080"); errors.Is(err, syscall.ECONNREFUSED) {
			break
		}
	}
	if !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("[::1]: %v, want it refused at once", err)
	}
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
	unchanged(t, before)
}

// unchanged waits until links and rules are as they were.
func unchanged(t testing.TB, before string) {
	t.Helper()
	var now string
	waitFor(t, "links and rules as before", func() bool { now = snapshot(t); return now == before })
	if now != before {
		t.Errorf("before:\n%s\nnow:\n%s", before, now)
	}
}

func waitFor(t testing.TB, what string, f func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !f(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("not so after a minute: %s", what)
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

// TestBridgeBadMapping: what ADD refuses, DEL takes: a pod that can't be made must not be one that can't be removed.
func TestBridgeBadMapping(t *testing.T) {
	w := newWire(t, 16, "10.216.0.0/24", "")
	a := newNS(t)
	for _, p := range []map[string]any{port(8120, 0, "tcp", ""), port(8120, 80, "icmp", ""), port(8120, 80, "tcp", "somewhere")} {
		if _, err := w.run("ADD", "a", a, mappings(p)); err == nil {
			t.Errorf("ADD with %v succeeded", p)
		}
		w.del("a", a, p)
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
	call, buf := 0, make([]byte, 100)
	who := func() string { // answers the call: one before may have been answered late
		call++
		_ = c.SetDeadline(time.Now().Add(300 * time.Millisecond))
		_, _ = fmt.Fprint(c, call)
		for {
			n, err := c.Read(buf)
			if errors.Is(err, os.ErrDeadlineExceeded) {
				return ""
			}
			if words := strings.Fields(string(buf[:n])); len(words) == 3 && words[2] == fmt.Sprint(call) {
				return words[0]
			}
		}
	}
	waitFor(t, "answer of a", func() bool { return who() == "a" })
	w.del("a", a, p)
	if got := who(); got != "" {
		t.Errorf("answer of %q after DEL", got)
	}
	w.del("b", b)
	w.add("b", b, p)
	waitFor(t, "answer of b", func() bool { return who() == "b" })
}
