package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestCompare(t *testing.T) {
	dir := t.TempDir()
	file := func(name, text string) string {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	events := func(results ...string) string {
		var lines []string
		for _, r := range results {
			test, outcome, _ := strings.Cut(r, "=")
			lines = append(lines, `{"Action":"run","Test":"`+test+`"}`, `{"Action":"`+outcome+`","Test":"`+test+`"}`)
		}
		return strings.Join(append([]string{"no JSON", `{"Action":"pass"}`}, lines...), "\n")
	}
	none, named := file("none", "# nothing\n"), file("named", "B config.md, \"Hooks\"\n")
	good := file("good", events("A/x/one=pass", "A=pass", "B=pass"))
	bad := file("bad", events("A/x/one=pass", "A=fail", "B=fail"))
	for name, c := range map[string]struct {
		list string
		args []string
		want int
	}{
		"alone":                     {none, []string{"x=" + good}, 0},
		"fails":                     {none, []string{"x=" + bad}, 1},
		"no other passes":           {none, []string{"x=" + good, "y=" + bad}, 1},
		"no other passes, and so":   {named, []string{"x=" + good, "y=" + bad, "z=" + bad}, 0},
		"one other passes":          {none, []string{"x=" + good, "y=" + bad, "z=" + good}, 0},
		"a difference that is none": {named, []string{"x=" + good, "y=" + good}, 1},
	} {
		if got, err := compare(c.list, c.args); err != nil || got != c.want {
			t.Errorf("%s: %d wrong, %v; want %d", name, got, err, c.want)
		}
	}
	if _, err := compare(none, []string{"x=" + file("empty", "")}); err == nil {
		t.Error("a report of nothing is taken")
	}
	if _, err := compare(file("bare", "B\n"), []string{"x=" + good}); err == nil {
		t.Error("a difference without reason is taken")
	}
	r, err := readReport(file("cut", `{"Action":"run","Test":"C"}`))
	if err != nil || r["C"] != "fail" {
		t.Errorf("a test that never ended: %v, %v", r, err)
	}
}
