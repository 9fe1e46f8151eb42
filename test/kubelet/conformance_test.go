package kubelet

import (
	"cmp"
	"encoding/xml"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/test/kubelet/cluster"
)

// system is what the suite asks of the machine before it begins; by default it wants a kernel's configuration that can be read.
const system = "os: Linux\nkernelSpec: {versions: ['.*']}\ncgroups: []\n"

// TestNodeConformance runs Kubernetes' own node tests (test/e2e_node), the specs with BERTH_NODE_E2E as label filter, on
// the kubelet that is there. BERTH_NODE_E2E_FOCUS is a regular expression that their names match; what has not been run
// when BERTH_NODE_E2E_TIMEOUT is over is not.
func TestNodeConformance(t *testing.T) {
	c := cluster.Get(t)
	filter := os.Getenv("BERTH_NODE_E2E")
	if filter == "" {
		t.Skip("takes an hour: hack/kubelet.sh --conformance")
	}
	dir := t.TempDir()
	spec := filepath.Join(dir, "system.yaml")
	if err := os.WriteFile(spec, []byte(system), 0o644); err != nil {
		t.Fatal(err)
	}
	args := []string{"--procs=10", "--no-color", "--silence-skips", "--timeout=" + cmp.Or(os.Getenv("BERTH_NODE_E2E_TIMEOUT"), "3h"), "--label-filter=" + filter}
	if focus := os.Getenv("BERTH_NODE_E2E_FOCUS"); focus != "" {
		args = append(args, "--focus="+focus)
	}
	args = append(args, c.Tool("kube/e2e_node.test"), "--", "--start-services=false", "--stop-services=false", "--prepull-images=false",
		"--bearer-token="+c.Rest.BearerToken, "--host="+c.Rest.Host, "--node-name="+cluster.NodeName, "--system-spec-file="+spec, "--dns-domain=cluster.local",
		"--container-runtime-endpoint="+c.Endpoint(), "--report-dir="+dir)
	cmd := exec.CommandContext(t.Context(), c.Tool("kube/ginkgo"), args...)
	cmd.Dir = dir
	// The suite needs minutes to hours; what it writes goes where the logs are kept.
	log, err := os.Create(filepath.Join(c.Dir, "e2e_node.log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	begin := time.Now()
	runErr := cmd.Run()
	keep(t, log.Name())
	results, err := junit(filepath.Join(dir, "junit_01.xml"))
	if err != nil {
		t.Fatalf("%v; %v, see %s", err, runErr, log.Name())
	}
	t.Logf("%d specs in %s", len(results), time.Since(begin).Round(time.Second))
	for _, r := range results {
		t.Run(r.name, func(t *testing.T) {
			switch r.status {
			case "passed":
			case "skipped":
				t.Skip(r.why)
			default:
				t.Errorf("%s: %s", r.status, r.why)
			}
		})
	}
}

// keep copies the file to where people want the logs.
func keep(t *testing.T, name string) {
	if dir := os.Getenv("BERTH_KUBELET_LOGS"); dir != "" {
		if err := exec.Command("cp", name, dir).Run(); err != nil {
			t.Error(err)
		}
	}
}

// result is what became of a spec.
type result struct{ name, status, why string }

// junit reads Ginkgo's report. Specs that the filter left out are not in the result.
func junit(file string) ([]result, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var report struct {
		Suites []struct {
			Cases []struct {
				Name    string `xml:"name,attr"`
				Status  string `xml:"status,attr"`
				Failure *struct {
					Message string `xml:"message,attr"`
				} `xml:"failure"`
				Skipped *struct {
					Message string `xml:"message,attr"`
				} `xml:"skipped"`
			} `xml:"testcase"`
		} `xml:"testsuite"`
	}
	if err := xml.Unmarshal(raw, &report); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	var all []result
	for _, s := range report.Suites {
		for _, c := range s.Cases {
			r := result{name: strings.TrimPrefix(c.Name, "[It] "), status: c.Status}
			switch {
			case strings.HasPrefix(c.Name, "[Synchronized") && c.Status == "passed":
				continue // every process' setup and its end
			case c.Skipped != nil && !strings.HasPrefix(c.Skipped.Message, "skipped - "):
				continue
			case c.Skipped != nil:
				r.why = c.Skipped.Message
			case c.Failure != nil:
				r.why = c.Failure.Message
			}
			all = append(all, r)
		}
	}
	slices.SortFunc(all, func(a, b result) int { return strings.Compare(a.name, b.name) })
	return all, nil
}
