package netplugin_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/netplugin"
)

const referenceList = `{
  "cniVersion": "1.0.0", "name": "ref", "plugins": [
    {"type": "loopback"},
    {"type": "bridge", "bridge": "ref0", "isGateway": true, "ipMasq": true, "hairpinMode": true,
     "ipam": {"type": "host-local", "dataDir": "DATA", "ranges": [[{"subnet": "10.220.0.0/24"}]], "routes": [{"dst": "0.0.0.0/0"}]}},
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}`

// newReference is a Manager with the usual chain of reference plugins.
func newReference(t testing.TB) (m *netplugin.Manager, conf, data string) {
	t.Helper()
	bin := referenceDir(t, "loopback", "bridge", "host-local", "portmap")
	dir := t.TempDir()
	conf, data = filepath.Join(dir, "net.d"), filepath.Join(dir, "ipam")
	if err := os.Mkdir(conf, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(conf, "10-ref.conflist"), []byte(strings.ReplaceAll(referenceList, "DATA", data)), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := netplugin.New(netplugin.Options{ConfDir: conf, BinDirs: []string{bin}, CacheDir: filepath.Join(dir, "cache")})
	if err != nil {
		t.Fatal(err)
	}
	return m, conf, data
}

// reserved lists the addresses host-local holds.
func reserved(t testing.TB, data string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(data, "ref", "[0-9]*"))
	if err != nil {
		t.Fatal(err)
	}
	return files
}

func TestReferencePlugins(t *testing.T) {
	m, conf, data := newReference(t)
	if err := m.Status(t.Context()); err != nil {
		t.Fatal(err)
	}
	attach := func(id string, ports ...netplugin.Port) (string, netplugin.Result) {
		ns := newNS(t)
		res, err := m.Attach(t.Context(), netplugin.Pod{ID: id, Name: id, Namespace: "default", UID: id, NetNS: ns, Ports: ports})
		if err != nil {
			t.Fatal(err)
		}
		if len(res.IPs) != 1 || !res.IPs[0].Is4() {
			t.Fatalf("addresses %v", res.IPs)
		}
		return ns, res
	}
	a, resA := attach("a", netplugin.Port{HostPort: 8200, ContainerPort: 80, Protocol: "tcp"})
	b, _ := attach("b")
	serve(t, a, "a", 80)
	expectAnswer(t, b, "tcp", resA.IPs[0].String()+":80", "a")
	expectAnswer(t, "", "tcp", resA.IPs[0].String()+":80", "a")
	expectAnswer(t, "", "tcp", "127.0.0.1:8200", "a")
	if n := len(reserved(t, data)); n != 2 {
		t.Errorf("%d addresses reserved, want 2", n)
	}
	// One goes while its namespace is there, the other after namespace and configuration went.
	if err := m.Detach(t.Context(), "a", a); err != nil {
		t.Error(err)
	}
	dropNS(b)
	if err := os.RemoveAll(conf); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := m.Detach(t.Context(), "b", b); err != nil {
			t.Error(err)
		}
	}
	expectNone(t, "", "tcp", "127.0.0.1:8200")
	if left := reserved(t, data); len(left) != 0 {
		t.Errorf("addresses left: %v", left)
	}
	waitFor(t, "links gone", func() bool { return !strings.Contains(snapshot(t), "link veth") })
}
