package handlers

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// Status lists every handler with what it can do, and says which can't be used and why. Such a one is refused, as is one that is
// not configured, and works once its program is there.
func TestBroken(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	s, err := n.Runtime.Status(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	has := map[string]*rt.RuntimeHandlerFeatures{}
	for _, h := range s.RuntimeHandlers {
		has[h.Name] = h.Features
	}
	for _, name := range []string{"", "berth", "runc", "crun", "bare", "missing", "nonsense"} {
		if has[name] == nil {
			t.Errorf("handler %q is not in Status: %v", name, s.RuntimeHandlers)
		}
	}
	for _, name := range runtimes {
		if _, err := os.Stat(filepath.Join(n.Cache(), "peers", name)); err == nil && (!has[name].GetUserNamespaces() || !has[name].GetRecursiveReadOnlyMounts()) {
			t.Errorf("features of %s: %v", name, has[name])
		}
	}
	for _, name := range []string{"missing", "nonsense"} {
		if f := has[name]; f.GetUserNamespaces() || f.GetRecursiveReadOnlyMounts() {
			t.Errorf("%s has features: %v", name, f)
		}
		said := false
		for _, c := range s.Status.Conditions {
			said = said || c.Type == "RuntimeHandlerReady/"+name && !c.Status && c.Message != ""
		}
		if !said {
			t.Errorf("no condition tells of %s: %v", name, s.Status.Conditions)
		}
		_, err := n.Runtime.RunPodSandbox(t.Context(), harness.PodConfig("broken", n.Dir), name)
		if err == nil || !strings.Contains(err.Error(), "handler "+name+" is not usable") {
			t.Errorf("pod on %s: %v", name, err)
		}
	}
	if _, err := n.Runtime.RunPodSandbox(t.Context(), harness.PodConfig("unknown", n.Dir), "kata"); err == nil || !strings.Contains(err.Error(), `"kata" is not configured`) {
		t.Errorf("pod on an unknown handler: %v", err)
	}
	need(t, n, "runc")
	if err := os.Symlink(filepath.Join(n.Cache(), "peers/runc"), missing()); err != nil {
		t.Fatal(err)
	}
	defer os.Remove(missing())
	p := n.RunOn(t, harness.PodConfig("late", n.Dir), "missing")
	if got := n.Exec(t, p.Start(harness.Command("c", "sleep 1000")), "echo", "works"); got != "works\n" {
		t.Errorf("exec: %q", got)
	}
}

// The options of a handler: annotations that are let through, and no others; privileged containers without host devices.
func TestOptions(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	need(t, n, "runc")
	cfg := harness.PodConfig("options", n.Dir)
	cfg.Annotations = map[string]string{"e2e.pod/a": "1", "e2e.podx": "no", "exact": "2", "exactly": "no", "e2e.ctr/one": "no"}
	cfg.Linux.SecurityContext.Privileged = true
	for handler, want := range map[string]struct {
		annotations string
		devices     bool
	}{"bare": {`{"e2e.ctr/one":"3","e2e.pod/a":"1","exact":"2"}`, false}, "runc": {"null", true}} {
		cfg.Metadata.Uid += handler
		p := n.RunOn(t, cfg, handler)
		c := harness.Command("c", "sleep 1000")
		c.Annotations = map[string]string{"e2e.ctr/one": "3", "e2e.ctr/other": "no"}
		c.Linux.SecurityContext.Privileged = true
		id := p.Start(c)
		st, err := n.Runtime.ContainerStatus(t.Context(), id, true)
		if err != nil {
			t.Fatal(err)
		}
		var info struct {
			RuntimeSpec struct {
				Annotations map[string]string
				Linux       struct{ Devices []any }
			}
		}
		if err := json.Unmarshal([]byte(st.Info["info"]), &info); err != nil {
			t.Fatal(err)
		}
		if got, _ := json.Marshal(info.RuntimeSpec.Annotations); string(got) != want.annotations {
			t.Errorf("%s is given annotations %s, want %s", handler, got, want.annotations)
		}
		if got := len(info.RuntimeSpec.Linux.Devices) > 0; got != want.devices {
			t.Errorf("%s: privileged with host devices: %v, want %v", handler, got, want.devices)
		}
	}
}
