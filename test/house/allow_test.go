package house

import (
	_ "embed"
	"strings"
	"sync"
	"testing"
)

//go:embed allow.txt
var allowText string

// maxAllowed only ever goes down.
const maxAllowed = 2

// allowed is allow.txt with a mark at what was needed.
var allowed = struct {
	sync.Mutex
	used map[string]bool
}{used: map[string]bool{}}

func allowList() []string {
	var out []string
	for l := range strings.Lines(allowText) {
		if l, _, _ = strings.Cut(l, "#"); strings.TrimSpace(l) != "" {
			out = append(out, strings.TrimSpace(l))
		}
	}
	return out
}

// offend reports one offence against a rule, unless it is on the list. Where says the place for the reader;
// subject is what stands in the list and must not contain line numbers.
func offend(t *testing.T, rule, subject, where, why string) {
	t.Helper()
	key := rule + ": " + subject
	for _, a := range allowList() {
		if a == key {
			allowed.Lock()
			allowed.used[key] = true
			allowed.Unlock()
			return
		}
	}
	t.Errorf("%s: %s [%s]", where, why, key)
}

// TestHouse runs the rules, then looks whether the list has grown or holds what is no longer needed.
func TestHouse(t *testing.T) {
	for name, rule := range map[string]func(*testing.T){
		"layers": layers, "docs": docs, "functions": functions, "files": files, "types": types, "globals": globals,
		"errors": errorTexts, "words": words, "packages": packageNames, "leaves": leafLogs, "unsafe": unsafeFiles,
		"goroutines": goroutines, "top": topLevel, "machine": machineWords, "placeholders": placeholders,
	} {
		t.Run(name, rule)
	}
	list := allowList()
	if len(list) > maxAllowed {
		t.Errorf("allow.txt has %d entries, maxAllowed is %d: the list may only shrink", len(list), maxAllowed)
	}
	for _, a := range list {
		if !allowed.used[a] {
			t.Errorf("allow.txt: %q is no longer needed: take it out and lower maxAllowed", a)
		}
	}
}
