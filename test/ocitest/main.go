// Ocitest runs the validation programs of github.com/opencontainers/runtime-tools on OCI runtimes and compares.
//
//	ocitest [--jobs N] [--only REGEXP] [--expect FILE] [--released | --correct] [--out DIR] --programs DIR NAME=RUNTIME...
//
// The first runtime is the one under test. It must pass every program that is not listed in the file of expectations,
// fail each one that is listed, for the reason listed, and pass whatever all other runtimes given pass.
//
// A program reports by the Test Anything Protocol. It passes with status 0, a plan, as many results as planned and none
// that is "not ok". One that plans nothing has tested nothing, whatever its status.
//
// The suite's default seccomp profile is of 2018: it refuses system calls that kernels got since and that runc makes
// after the filter is in force. Each configuration is therefore given to the runtime with those calls allowed, and
// without capabilities that the machine does not have, by this program standing in for the runtime (shim.go);
// --released leaves the configurations as they are, --correct takes options of tmpfs off bind mounts besides.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"sort"
	"strings"
	"text/tabwriter"
)

func main() {
	if os.Getenv(shimRuntime) != "" {
		fmt.Fprintln(os.Stderr, "ocitest:", shim(os.Args[1:]))
		os.Exit(125)
	}
	failed, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "ocitest:", err)
		os.Exit(2)
	}
	if failed > 0 {
		os.Exit(1)
	}
}

func run() (failed int, err error) {
	var s suite
	var only, expect, totals string
	flag.StringVar(&s.programs, "programs", "", "directory with the programs, runtimetest and the suite's root file system")
	flag.IntVar(&s.jobs, "jobs", 4, "programs run at the same time")
	flag.StringVar(&only, "only", "", "run the programs whose name matches")
	flag.StringVar(&expect, "expect", "", "file of expectations for the first runtime")
	flag.BoolVar(&s.released, "released", false, "leave the seccomp profile as it is")
	flag.BoolVar(&s.correct, "correct", false, "take options of tmpfs off bind mounts")
	flag.StringVar(&s.out, "out", "", "directory to keep what the programs said in")
	flag.StringVar(&totals, "totals", "", "file to append passed, failed and skipped to")
	flag.Parse()
	if s.out == "" {
		return 0, fmt.Errorf("--out: missing")
	}
	if s.match, err = regexp.Compile(only); err != nil {
		return 0, err
	}
	var expected map[string][]expectation
	if expect != "" {
		if expected, err = readExpectations(expect, append(host(), map[bool]string{true: "corrected", false: "uncorrected"}[s.correct])); err != nil {
			return 0, err
		}
	}
	names, err := s.names()
	if err != nil {
		return 0, err
	}
	var names2 []string
	var columns [][]result
	for _, arg := range flag.Args() {
		name, path, ok := strings.Cut(arg, "=")
		if !ok {
			return 0, fmt.Errorf("%s: NAME=RUNTIME wanted", arg)
		}
		results, err := s.run(name, path, names)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", name, err)
		}
		names2, columns = append(names2, name), append(columns, results)
	}
	if len(columns) == 0 {
		return 0, fmt.Errorf("no runtime")
	}
	table(names, names2, columns)
	return judge(names, columns, expected, totals)
}

// names lists the programs.
func (s *suite) names() ([]string, error) {
	entries, err := os.ReadDir(s.programs)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, e := range entries {
		if n := e.Name(); n != "runtimetest" && filepath.Ext(n) == "" && s.match.MatchString(n) {
			names = append(names, n)
		}
	}
	sort.Strings(names)
	if len(names) == 0 {
		return nil, fmt.Errorf("%s: no programs", s.programs)
	}
	return names, nil
}

func table(programs, runtimes []string, columns [][]result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintf(w, "program\t%s\n", strings.Join(runtimes, "\t"))
	for i, p := range programs {
		cells := []string{p}
		for _, c := range columns {
			cells = append(cells, c[i].String())
		}
		fmt.Fprintln(w, strings.Join(cells, "\t"))
	}
	sums := []string{"passed, failed, nothing tested"}
	for _, c := range columns {
		var n [3]int
		for _, r := range c {
			n[r.outcome]++
		}
		sums = append(sums, fmt.Sprintf("%d, %d, %d", n[pass], n[fail], n[empty]))
	}
	fmt.Fprintln(w, strings.Join(sums, "\t"))
	w.Flush()
}

// judge holds the first column against what is expected of it and against the others, and prints the totals.
func judge(programs []string, columns [][]result, expected map[string][]expectation, totals string) (failed int, err error) {
	passed, skipped := 0, 0
	bad := func(format string, args ...any) { failed++; fmt.Printf("FAIL "+format+"\n", args...) }
	for i, p := range programs {
		got := columns[0][i]
		var want *expectation
		for _, e := range expected[p] {
			if e.covers(got) {
				want = &e
			}
		}
		peers := 0
		for _, c := range columns[1:] {
			if c[i].outcome == pass {
				peers++
			}
		}
		switch {
		case got.outcome == pass && mayPass(expected[p]):
			passed++
		case got.outcome == pass:
			bad("%s: listed as one that does not pass, and passes: take it off the list", p)
		case peers > 0 && peers == len(columns)-1 && (want == nil || !want.races): // time may have it that only ours loses
			bad("%s: all other runtimes pass: %s", p, got.why)
		case want == nil:
			bad("%s: %s", p, got.why)
		default:
			skipped++
			fmt.Printf("SKIP %s: %s: %s\n", p, want.outcome, want.reason)
		}
	}
	fmt.Printf("%d passed, %d failed, %d skipped\n", passed, failed, skipped)
	if totals == "" {
		return failed, nil
	}
	f, err := os.OpenFile(totals, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return failed, err
	}
	defer f.Close()
	_, err = fmt.Fprintln(f, passed, failed, skipped)
	return failed, err
}
