package main

import (
	"strings"
	"testing"
)

// A parent is not counted beside its children, and a package that died is one failure.
func TestCountsLeaves(t *testing.T) {
	in := strings.Join([]string{
		`{"Action":"run","Package":"p","Test":"TestA"}`,
		`{"Action":"run","Package":"p","Test":"TestA/x"}`,
		`{"Action":"run","Package":"p","Test":"TestA/y"}`,
		`{"Action":"pass","Package":"p","Test":"TestA/x"}`,
		`{"Action":"fail","Package":"p","Test":"TestA/y"}`,
		`{"Action":"fail","Package":"p","Test":"TestA"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"    b_test.go:3: needs root\n"}`,
		`{"Action":"output","Package":"p","Test":"TestB","Output":"--- SKIP: TestB (0.00s)\n"}`,
		`{"Action":"skip","Package":"p","Test":"TestB"}`,
		`{"Action":"fail","Package":"p"}`,
		`{"Action":"fail","Package":"died"}`,
		`{"Action":"build-fail","ImportPath":"broken"}`,
		`{"Action":"fail","Package":"broken"}`,
	}, "\n")
	s := sum{skips: map[string][]string{}}
	if err := s.gotest(strings.NewReader(in), true); err != nil {
		t.Fatal(err)
	}
	if s.passed != 1 || s.failed != 3 || s.skipped != 1 {
		t.Errorf("%d passed, %d failed, %d skipped; failures %q", s.passed, s.failed, s.skipped, s.failures)
	}
	if len(s.skips["needs root"]) != 1 {
		t.Errorf("skips: %v", s.skips)
	}
}
