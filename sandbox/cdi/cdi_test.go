package cdi_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/sandbox/cdi"
)

func file(t testing.TB, dir, name, text string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

const vendor = `{"cdiVersion": "0.7.0", "kind": "vendor.com/thing",
 "containerEdits": {"env": ["ALL=1"]},
 "devices": [
  {"name": "one", "containerEdits": {"env": ["ONE=1"],
    "deviceNodes": [{"path": "/dev/one", "hostPath": "/dev/null", "permissions": "rw"}],
    "mounts": [{"hostPath": "/tmp", "containerPath": "/usr/lib/thing", "options": ["ro", "bind"]}, {"hostPath": "/tmp", "containerPath": "/etc/hosts", "options": ["bind"]}],
    "hooks": [{"hookName": "createContainer", "path": "/bin/true"}], "additionalGids": [77]}},
  {"name": "two", "containerEdits": {"env": ["TWO=2"]}}]}`

func base() *specs.Spec {
	return &specs.Spec{
		Process: &specs.Process{Env: []string{"PATH=/bin", "ONE=from the request"}},
		Linux:   &specs.Linux{Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}},
		Mounts: []specs.Mount{{Destination: "/", Type: "overlay"}, {Destination: "/proc", Type: "proc"}, {Destination: "/dev", Type: "tmpfs"}, {Destination: "/sys", Type: "sysfs"},
			{Destination: "/etc/hosts", Type: "bind", Source: "/ours"}, {Destination: "/usr/lib/thing/below", Type: "bind"}},
	}
}

func TestApply(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file(t, dir, "vendor.json", vendor)
	spec := base()
	if err := cdi.Apply(spec, []string{dir, "/does/not/exist"}, []string{"vendor.com/thing=one", "vendor.com/thing=two"}); err != nil {
		t.Fatal(err)
	}
	for _, e := range []string{"ALL=1", "ONE=1", "TWO=2", "PATH=/bin"} {
		if !slices.Contains(spec.Process.Env, e) {
			t.Errorf("%s is not in %q", e, spec.Process.Env)
		}
	}
	if slices.Contains(spec.Process.Env, "ONE=from the request") {
		t.Error("the device's environment does not win")
	}
	var at []string
	for _, m := range spec.Mounts {
		at = append(at, m.Destination)
	}
	if got, want := strings.Join(at, " "), "/ /proc /dev /sys /etc/hosts /usr/lib/thing /usr/lib/thing/below"; got != want {
		t.Errorf("mounts %s, want %s", got, want)
	}
	if spec.Mounts[4].Source != "/tmp" {
		t.Errorf("/etc/hosts is from %s", spec.Mounts[4].Source)
	}
	if len(spec.Linux.Devices) != 1 || spec.Linux.Devices[0].Path != "/dev/one" || spec.Linux.Devices[0].Minor != 3 {
		t.Errorf("devices %+v", spec.Linux.Devices)
	}
	rules := spec.Linux.Resources.Devices
	if last := rules[len(rules)-1]; !last.Allow || last.Access != "rw" || *last.Minor != 3 {
		t.Errorf("device rules %+v", rules)
	}
	if len(spec.Hooks.CreateContainer) != 1 || !slices.Equal(spec.Process.User.AdditionalGids, []uint32{77}) {
		t.Errorf("hooks %+v, groups %v", spec.Hooks, spec.Process.User.AdditionalGids)
	}
}

func TestUnknownDeviceIsNamed(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	file(t, dir, "vendor.json", vendor)
	err := cdi.Apply(base(), []string{dir}, []string{"vendor.com/thing=two", "vendor.com/thing=three"})
	if err == nil || !strings.Contains(err.Error(), "vendor.com/thing=three") || strings.Contains(err.Error(), "=two") {
		t.Errorf("%v", err)
	}
	file(t, dir, "broken.yaml", "devices: [")
	err = cdi.Apply(base(), []string{dir}, []string{"other.com/thing=three"})
	if err == nil || !strings.Contains(err.Error(), "broken.yaml") {
		t.Errorf("the broken file is not named: %v", err)
	}
	if err := cdi.Apply(base(), []string{dir}, []string{"vendor.com/thing=two"}); err != nil {
		t.Errorf("a broken file costs the devices of another: %v", err)
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	got, err := cdi.Names([]string{"v.com/c=a"}, map[string]string{"cdi.k8s.io/x": "v.com/c=b,v.com/c=a", "other/cdi": "nothing", "cdi.k8s.io/a": "v.com/c=c"})
	if want := []string{"v.com/c=a", "v.com/c=c", "v.com/c=b"}; err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v, want %q", got, err, want)
	}
	for _, bad := range []string{"", "gpu0", "vendor.com/c", "vendor.com/../c=x", "v.com/c=a\n", strings.Repeat("x", 5000)} {
		if _, err := cdi.Names([]string{bad}, nil); !errors.Is(err, fs.ErrInvalid) || len(err.Error()) > 300 {
			t.Errorf("%.20q: %v", bad, err)
		}
		if _, err := cdi.Names(nil, map[string]string{"cdi.k8s.io/x": bad}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("annotation %.20q: %v", bad, err)
		}
	}
}
