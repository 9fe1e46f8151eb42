package house

import (
	"go/ast"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

// errorTexts: an error is a path of operations, not prose.
func errorTexts(t *testing.T) {
	prose := regexp.MustCompile(`(?i)\b(failed to|unable to)\b|^error `)
	for _, p := range product(t) {
		for _, f := range p.code() {
			ast.Inspect(f.ast, func(n ast.Node) bool {
				lit, ok := n.(*ast.BasicLit)
				if !ok || lit.Kind != token.STRING {
					return true
				}
				if s, err := strconv.Unquote(lit.Value); err == nil && prose.MatchString(s) && !within(p.dir, "test/house") {
					offend(t, "errors", f.path, f.at(lit.Pos()), "prose in an error: say verb, noun, id, then the cause")
				}
				return true
			})
		}
	}
}

// words: nothing is left for later without a decision that says so, and nothing in the tree speaks of how it came to be.
func words(t *testing.T) {
	later := regexp.MustCompile(`\b(` + `TODO|FIXME|XXX` + `)\b`)
	eachLine(t, func(name string, line int, text string) {
		if m := later.FindString(text); m != "" {
			offend(t, "words", name, at(name, line), m+": do it, or record a decision in hack/decisions")
		}
	})
}

// machineWords: no path of the machine it was written on, no host a package came from, no talk about the making.
// Written in pieces so that this file is not its own offender.
func machineWords(t *testing.T) {
	bad := regexp.MustCompile(`(?i)` + strings.Join([]string{
		`/wo` + `rk/`, `/fa` + `rm/`, `/tmp/be` + `rth/wt`, `/root/g` + `o/`, `proxy\.gol` + `ang`, `deb\.deb` + `ian`, `registry\.npm` + `js`,
		`\bpro` + `mpts?\b`, `\bcla` + `ude\b`, `\bll` + `m\b`, `\bassis` + `tant\b`, `\bai a` + `gents?\b`, `\bissue #?\d+\b`, `\bco-authored-` + `by\b`,
	}, "|"))
	eachLine(t, func(name string, line int, text string) {
		if strings.HasSuffix(name, ".sum") || filepath.Base(name) == "LICENSE" {
			return
		}
		if m := bad.FindString(text); m != "" {
			offend(t, "machine", name, at(name, line), "the tree must not say "+strconv.Quote(m))
		}
	})
}

func at(name string, line int) string { return name + ":" + strconv.Itoa(line) }

func eachLine(t *testing.T, f func(name string, line int, text string)) {
	t.Helper()
	for _, name := range tracked() {
		b, err := os.ReadFile(filepath.Join(top(), name))
		if err != nil {
			t.Fatal(err)
		}
		if strings.ContainsRune(string(b[:min(len(b), 4096)]), 0) || filepath.Dir(name) == "test/house" && strings.HasSuffix(name, "words_test.go") {
			continue
		}
		n := 0
		for l := range strings.Lines(string(b)) {
			n++
			f(name, n, l)
		}
	}
}

func packageNames(t *testing.T) {
	for _, p := range product(t) {
		switch p.name {
		case "util", "utils", "common", "helpers", "helper", "types", "lib", "misc", "base":
			offend(t, "packages", p.dir, p.dir, "a package is named after its subject, not after being a heap")
		}
	}
}

// leafLogs: leaves return errors, and warnings as values. Whoever calls them decides what is said.
func leafLogs(t *testing.T) {
	for _, p := range product(t) {
		leaf := false
		for _, d := range []string{"image", "netplugin", "oci", "sandbox/ns", "sandbox/compile", "sandbox/monitor"} {
			leaf = leaf || within(p.dir, d)
		}
		if !leaf {
			continue
		}
		for _, f := range p.code() {
			for _, im := range f.ast.Imports {
				switch im.Path.Value {
				case `"log"`, `"log/slog"`:
					offend(t, "leaves", f.path, f.at(im.Pos()), "a leaf does not log")
				}
			}
		}
	}
}

// placeholders: no panic for what is not written yet, no test that is switched off.
func placeholders(t *testing.T) {
	bad := regexp.MustCompile(`(?i)not (yet )?implemented|t\.Skip\(\)|t\.SkipNow\(\)`)
	for _, p := range product(t) {
		for _, f := range p.files {
			if within(p.dir, "test/house") || within(p.dir, "cri") {
				continue
			}
			if m := bad.Find(f.src); m != nil {
				offend(t, "placeholders", f.path, f.path, strconv.Quote(string(m))+": say what is missing and to whom")
			}
		}
	}
}

// topLevel: one look at the top tells what there is.
func topLevel(t *testing.T) {
	want := map[string]bool{}
	for _, n := range strings.Fields("cmd cri sandbox image netplugin oci hack test docs .ci .gitignore .gitattributes ARCHITECTURE.md LICENSE Makefile README.md go.mod go.sum") {
		want[n] = true
	}
	seen := map[string]bool{}
	for _, name := range tracked() {
		first, _, _ := strings.Cut(name, "/")
		if !want[first] && !seen[first] {
			offend(t, "top", first, first, "not in the list of what the top level holds")
		}
		seen[first] = true
	}
}
