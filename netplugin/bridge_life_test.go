package netplugin_test

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

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
	if err == nil && strings.Count(string(out), "masquerade") != 5 {
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
	unchanged(t, before)
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
	if _, err := exec.LookPath("nft"); err != nil {
		t.Skip("needs nft(8), Debian package nftables")
	}
	w := newWire(t, 11, "10.211.0.0/24", "")
	a := newNS(t)
	w.add("a", a, port(9400, 80, "tcp", ""))
	serve(t, a, "a", 80)
	if out, err := exec.Command("nft", "delete", "table", "inet", w.bridge).CombinedOutput(); err != nil {
		t.Fatalf("nft: %v: %s", err, out)
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
		"long name":       {map[string]any{"bridge": "sixteen-bytes-ok"}, "is not 1 to 15 bytes"},
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
