package house

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestBehaviourTable: docs/cri-behaviour.md has its 96 rows and 30 mistakes, each with a test; every test it names exists; and it
// counts itself rightly.
func TestBehaviourTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/cri-behaviour.md")
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{"core": "../e2e/core", "contract": "../e2e/contract", "stream": "../e2e/stream", "handlers": "../e2e/handlers", "fault": "../fault", "netplugin": "../../netplugin"}
	tests := testsOf(t, packages)
	named := regexp.MustCompile("`([a-z]+)\\.(Test\\w+)`")
	for _, m := range named.FindAllStringSubmatch(string(text), -1) {
		switch name := m[1] + "." + m[2]; {
		case packages[m[1]] == "":
			t.Errorf("%s: there is no such package of tests", name)
		case !tests[name]:
			t.Errorf("%s does not exist", name)
		}
	}
	rows, mistakes, _ := strings.Cut(string(text), "\n## ")
	done, part := 0, 0
	for i := 1; i <= 96; i++ {
		cells := row(t, rows, i, 4)
		switch proof, rest := cells[2], cells[3]; {
		case !named.MatchString(proof):
			t.Errorf("row %d has no test", i)
		case rest == "":
			done++
		default:
			part++
		}
	}
	if says := fmt.Sprintf("Of 96 rows %d are proved, %d in part", done, part); !strings.Contains(rows, says) {
		t.Errorf("the page does not say %q", says)
	}
	for i := 1; i <= 30; i++ {
		if cells := row(t, mistakes, i, 3); !named.MatchString(cells[2]) {
			t.Errorf("mistake %d has no test", i)
		}
	}
}

// testsOf finds the test functions of packages.
func testsOf(t *testing.T, packages map[string]string) map[string]bool {
	t.Helper()
	tests := map[string]bool{}
	for pkg, dir := range packages {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no tests in %s: %v", dir, err)
		}
		for _, f := range files {
			src, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllSubmatch(src, -1) {
				tests[pkg+"."+string(m[1])] = true
			}
		}
	}
	return tests
}

// row returns the cells of a table's row, which must be there once.
func row(t *testing.T, table string, n, cells int) []string {
	t.Helper()
	var found [][]string
	for l := range strings.Lines(table) {
		if strings.HasPrefix(l, "| "+strconv.Itoa(n)+" | ") {
			found = append(found, strings.Split(strings.Trim(strings.TrimSpace(l), "|"), "|"))
		}
	}
	if len(found) != 1 || len(found[0]) != cells {
		t.Fatalf("row %d is there %d times, or has not %d cells", n, len(found), cells)
	}
	for i := range found[0] {
		found[0][i] = strings.TrimSpace(found[0][i])
	}
	return found[0]
}
