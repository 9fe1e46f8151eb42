package house

import (
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// TestBehaviourTable: docs/cri-behaviour.md has its 96 rows, and every test it names exists.
func TestBehaviourTable(t *testing.T) {
	text, err := os.ReadFile("../../docs/cri-behaviour.md")
	if err != nil {
		t.Fatal(err)
	}
	tests := map[string]bool{}
	for pkg, dir := range map[string]string{"core": "../e2e/core", "contract": "../e2e/contract", "fault": "../fault"} {
		files, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
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
	for _, m := range regexp.MustCompile("`((?:core|contract|fault)\\.Test\\w+)`").FindAllStringSubmatch(string(text), -1) {
		if !tests[m[1]] {
			t.Errorf("%s does not exist", m[1])
		}
	}
	rows, _, _ := strings.Cut(string(text), "\n## ")
	for i := 1; i <= 96; i++ {
		if strings.Count(rows, "\n| "+strconv.Itoa(i)+" | ") != 1 {
			t.Errorf("row %d is not there once", i)
		}
	}
}
