package netplugin_test

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os/exec"
	"path/filepath"
	"strings"
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

// serve answers in a namespace with a name, the caller's address and, over UDP, what the caller said.
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
				n, from, err := u.ReadFrom(b)
				if err != nil {
					return
				}
				_, _ = u.WriteTo(fmt.Appendf(nil, "%s %s %s", name, from, b[:n]), from)
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
	words := strings.Fields(string(answer) + " ? ?")
	ap, err := netip.ParseAddrPort(words[1])
	return words[0], ap.Addr().Unmap(), err
}

func expectAnswer(t testing.TB, netns, network, addr, name string) netip.Addr {
	t.Helper()
	for end := time.Now().Add(time.Minute); ; {
		got, from, err := ask(t, netns, network, addr)
		if err == nil && got == name {
			return from
		}
		// A busy machine may be slower than the patience of one call; another's answer is wrong at once.
		if err == nil || time.Now().After(end) {
			t.Errorf("%s %s: answer of %q (%v), want of %q", network, addr, got, err, name)
			return from
		}
	}
}

func expectNone(t testing.TB, netns, network, addr string) {
	t.Helper()
	if got, _, err := ask(t, netns, network, addr); err == nil {
		t.Errorf("%s %s: answer of %q, want none", network, addr, got)
	}
}
