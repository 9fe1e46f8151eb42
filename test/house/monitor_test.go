package house

import (
	"flag"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "rewrite cmd/berth-monitor/depaware.txt")

const maxMonitorBytes = 2_500_000

// TestMonitorDependencies: what lives as long as a pod imports least. The list of everything that is linked into the
// monitor is checked in, so that a change of it is seen in review.
func TestMonitorDependencies(t *testing.T) {
	dir := filepath.Join(top(), "cmd/berth-monitor")
	cmd := exec.Command("go", "list", "-deps", "-f", "{{.ImportPath}}", "./cmd/berth-monitor")
	cmd.Dir = top()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	deps := strings.Fields(string(out))
	// The standard library's insides change with each Go release without meaning anything.
	deps = slices.DeleteFunc(deps, func(d string) bool {
		return strings.HasPrefix(d, "internal/") || strings.Contains(d, "/internal/") || strings.HasPrefix(d, "vendor/") || d == "unsafe"
	})
	slices.Sort(deps)
	got := "# Everything linked into berth-monitor. Rewrite with: go test ./test/house -run MonitorDependencies -update\n" + strings.Join(deps, "\n") + "\n"
	name := filepath.Join(dir, "depaware.txt")
	if *update {
		if err := os.WriteFile(name, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("cmd/berth-monitor/depaware.txt says otherwise; if the change is meant, run with -update\n%s", diff(string(want), got))
	}
}

func diff(want, got string) string {
	w, g := strings.Split(want, "\n"), strings.Split(got, "\n")
	var out strings.Builder
	for _, l := range w {
		if !slices.Contains(g, l) {
			out.WriteString("- " + l + "\n")
		}
	}
	for _, l := range g {
		if !slices.Contains(w, l) {
			out.WriteString("+ " + l + "\n")
		}
	}
	return out.String()
}

// TestMonitorSize: one is resident per pod.
func TestMonitorSize(t *testing.T) {
	bin := filepath.Join(t.TempDir(), "berth-monitor")
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", bin, "./cmd/berth-monitor")
	cmd.Dir = top()
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	st, err := os.Stat(bin)
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("%d bytes", st.Size())
	if st.Size() > maxMonitorBytes {
		t.Errorf("berth-monitor has %d bytes, limit %d", st.Size(), maxMonitorBytes)
	}
}
