package netplugin_test

import (
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/netplugin"
)

// newBuiltin is a Manager with the built-in network.
func newBuiltin(t testing.TB, cache string, c netplugin.BuiltinConf) *netplugin.Manager {
	t.Helper()
	m, err := netplugin.New(netplugin.Options{
		ConfDir: filepath.Join(cache, "none"), CacheDir: cache,
		Builtin: true, BuiltinBin: filepath.Join(bridgeDir(t), "berth-bridge"), BuiltinConf: c,
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// TestBuiltinTwoDaemons runs two built-in networks of different roots side by side.
func TestBuiltinTwoDaemons(t *testing.T) {
	needRoot(t)
	before := snapshot(t)
	var nets []netip.Prefix
	var ms []*netplugin.Manager
	for range 2 {
		cache := t.TempDir()
		m := newBuiltin(t, cache, netplugin.BuiltinConf{IPv6: true})
		if err := m.Status(t.Context()); err != nil {
			t.Fatal(err)
		}
		if m.Config() != "berth" {
			t.Errorf("network %q", m.Config())
		}
		ns := newNS(t)
		res, err := m.Attach(t.Context(), netplugin.Pod{ID: "p", NetNS: ns, Ports: []netplugin.Port{{HostPort: uint16(8300 + len(ms)), ContainerPort: 80, Protocol: "tcp"}}})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.IPs) != 2 || !res.IPs[0].Is4() || !res.IPs[1].Is6() {
			t.Fatalf("addresses %v", res.IPs)
		}
		serve(t, ns, "p", 80)
		ms, nets = append(ms, m), append(nets, netip.PrefixFrom(res.IPs[0], 20).Masked())
		// Made again, the Manager keeps what it chose, although its own bridge has that range now.
		m = newBuiltin(t, cache, netplugin.BuiltinConf{IPv6: true})
		if string(m.Result("p")) != string(res.Raw) {
			t.Error("result lost")
		}
		again, err := m.Attach(t.Context(), netplugin.Pod{ID: "q", NetNS: newNS(t)})
		if err != nil {
			t.Fatal(err)
		}
		if !nets[len(nets)-1].Contains(again.IPs[0]) {
			t.Errorf("address %s not in %s", again.IPs[0], nets)
		}
	}
	if nets[0].Overlaps(nets[1]) {
		t.Errorf("ranges %v", nets)
	}
	expectAnswer(t, "", "tcp", "127.0.0.1:8300", "p")
	expectAnswer(t, "", "tcp", "127.0.0.1:8301", "p")
	for _, m := range ms {
		if err := m.Collect(t.Context(), nil); err != nil {
			t.Error(err)
		}
	}
	unchanged(t, before)
}

func TestBuiltinGivesWayToConfiguration(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	m, err := netplugin.New(netplugin.Options{ConfDir: r.conf, BinDirs: []string{r.bin}, CacheDir: t.TempDir(), Builtin: true, BuiltinBin: "/bin/true"})
	if err != nil {
		t.Fatal(err)
	}
	if m.Config() != "berth" {
		t.Errorf("network %q", m.Config())
	}
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	if m.Config() != "net" {
		t.Errorf("network %q", m.Config())
	}
}

func TestBuiltinKeepsWhatItChose(t *testing.T) {
	t.Parallel()
	cache := t.TempDir()
	read := func(c netplugin.BuiltinConf) string {
		t.Helper()
		if _, err := netplugin.New(netplugin.Options{CacheDir: cache, Builtin: true, BuiltinBin: "/bin/true", BuiltinConf: c}); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(cache, "builtin.conflist"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	first := read(netplugin.BuiltinConf{})
	if second := read(netplugin.BuiltinConf{}); second != first {
		t.Errorf("chose\n%s\nthen\n%s", first, second)
	}
	set := netplugin.BuiltinConf{Bridge: "br-x", Table: "tab", Subnet: netip.MustParsePrefix("10.1.2.0/24"), MTU: 1400}
	got := read(set)
	for _, want := range []string{`"br-x"`, `"tab"`, `"10.1.2.0/24"`, `1400`} {
		if !strings.Contains(got, want) {
			t.Errorf("%s not in\n%s", want, got)
		}
	}
}
