package contract

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

const vendor = `cdiVersion: "0.7.0"
kind: "vendor.com/thing"
containerEdits: {env: ["VENDOR=1"]}
devices:
- name: "one"
  containerEdits:
    env: ["ONE=device"]
    deviceNodes: [{path: "/dev/one", hostPath: "/dev/full", permissions: "rw"}]
    mounts: [{hostPath: "/proc/version", containerPath: "/opt/vendor/version", options: ["ro", "bind"]}]
    additionalGids: [4242]
- name: "two"
  containerEdits: {env: ["TWO=2"]}
`

// Devices by Container Device Interface: by field and by annotation, after the request's own fields.
func TestCDI(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	if err := os.Mkdir(n.CDI(), 0o755); err != nil {
		t.Fatal(err)
	}
	defer os.RemoveAll(n.CDI())
	if err := os.WriteFile(filepath.Join(n.CDI(), "vendor.yaml"), []byte(vendor), 0o644); err != nil {
		t.Fatal(err)
	}
	p := n.Run(t, harness.PodConfig("cdi", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.CDIDevices = []*rt.CDIDevice{{Name: "vendor.com/thing=one"}}
	cfg.Annotations = map[string]string{"cdi.k8s.io/plugin": "vendor.com/thing=one,vendor.com/thing=two"}
	cfg.Envs = []*rt.KeyValue{{Key: "ONE", Value: []byte("request")}}
	id := p.Start(cfg)
	n.Says(t, id, map[string]string{
		"echo $VENDOR $ONE $TWO":                    "1 device 2\n",
		"stat -c '%t %T' /dev/one":                  "1 7\n",
		"echo x 2>/dev/null >/dev/one || echo full": "full\n",
		"head -c 5 /opt/vendor/version":             "Linux",
		"id -G | tr ' ' '\\n' | grep -c '^4242$'":   "1\n",
		"cat /dev/null && echo usual devices work":  "usual devices work\n",
	})
	for name, device := range map[string]string{"unknown": "vendor.com/thing=three", "malformed": "three"} {
		cfg := harness.Command(name, "sleep 1000")
		cfg.CDIDevices = []*rt.CDIDevice{{Name: "vendor.com/thing=one"}, {Name: device}}
		if _, err := n.Runtime.CreateContainer(t.Context(), p.ID, cfg, p.Config); err == nil || !strings.Contains(err.Error(), device) {
			t.Errorf("device %s: %v", device, err)
		}
	}
}

// A directory stands for the devices below it; permissions are the request's; what is no device is refused.
func TestDevices(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("devices", n.Dir))
	cfg := harness.Command("c", "sleep 1000")
	cfg.Devices = []*rt.Device{{HostPath: "/dev/full", ContainerPath: "/dev/mine", Permissions: "r"}, {HostPath: "/dev/net", ContainerPath: "/dev/nets"}}
	if _, err := os.Stat("/dev/net/tun"); err != nil {
		cfg.Devices = cfg.Devices[:1]
	}
	id := p.Start(cfg)
	if got := n.Exec(t, id, "sh", "-c", "head -c 1 /dev/mine | wc -c; echo x 2>/dev/null >/dev/mine || echo refused"); got != "1\nrefused\n" {
		t.Errorf("a device to be read only: %q", got)
	}
	if len(cfg.Devices) > 1 {
		if got := n.Exec(t, id, "stat", "-c", "%t %T", "/dev/nets/tun"); got != "a c8\n" {
			t.Errorf("device in a directory: %q", got)
		}
	}
	for name, d := range map[string]*rt.Device{"file": {HostPath: "/etc/passwd"}, "missing": {HostPath: "/dev/nothing"}, "letters": {HostPath: "/dev/null", Permissions: "rx"}} {
		cfg := harness.Command("bad-"+name, "sleep 1000")
		cfg.Devices = []*rt.Device{d}
		if _, err := n.Runtime.CreateContainer(t.Context(), p.ID, cfg, p.Config); err == nil {
			t.Errorf("%s: device %v was taken", name, d)
		}
	}
}
