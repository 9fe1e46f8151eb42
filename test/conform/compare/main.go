// Command compare puts the results of the conformance tests of several runtimes side by side.
//
//	compare [--differences FILE] NAME=REPORT...
//
// A report is what "go tool test2json" writes. The first runtime is the one under test: it must pass everything. A test
// that some other runtime runs and none of them passes must be named in the file of differences, with the section of
// the specification that it holds on to; one that is named and that another runtime passes is not a difference any more. Without
// a file the other runtimes may fail as they like.
// Only tests without subtests count. The table shows the tests in which the runtimes differ.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
)

func main() {
	differences := flag.String("differences", "", "file with a line for each test that no other runtime is to pass: NAME REASON")
	flag.Parse()
	wrong, err := compare(*differences, flag.Args())
	if err != nil {
		fmt.Fprintln(os.Stderr, "compare:", err)
		os.Exit(2)
	}
	if wrong > 0 {
		os.Exit(1)
	}
}

// report maps a test to "pass", "fail" or "skip".
type report struct {
	name    string
	results map[string]string
}

func compare(differences string, args []string) (wrong int, err error) {
	listed, err := readDifferences(differences)
	if err != nil {
		return 0, err
	}
	var reports []report
	tests := map[string]bool{}
	for _, arg := range args {
		name, path, _ := strings.Cut(arg, "=")
		r, err := readReport(path)
		if err != nil {
			return 0, fmt.Errorf("%s: %w", arg, err)
		}
		reports = append(reports, report{name, r})
		for test := range r {
			tests[test] = true
		}
	}
	if len(reports) == 0 || len(reports[0].results) == 0 {
		return 0, fmt.Errorf("no test was run")
	}
	names := make([]string, 0, len(tests))
	for test := range tests {
		names = append(names, test)
	}
	slices.Sort(names)
	table(names, reports)
	if differences == "" {
		reports = reports[:1] // nobody else is judged
	}
	for _, complaint := range judge(names, reports, listed) {
		fmt.Println("FAIL", complaint)
		wrong++
	}
	return wrong, nil
}

func table(names []string, reports []report) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	defer w.Flush()
	head, sums := []string{"test"}, []string{"passed, failed, skipped"}
	for _, r := range reports {
		head = append(head, r.name)
		n := map[string]int{}
		for _, outcome := range r.results {
			n[outcome]++
		}
		sums = append(sums, fmt.Sprintf("%d, %d, %d", n["pass"], n["fail"], n["skip"]))
	}
	fmt.Fprintln(w, strings.Join(head, "\t"))
	for _, test := range names {
		row := []string{test}
		for _, r := range reports {
			outcome := r.results[test]
			if outcome == "" {
				outcome = "-"
			}
			row = append(row, outcome)
		}
		if slices.ContainsFunc(row[1:], func(s string) bool { return s != "pass" }) {
			fmt.Fprintln(w, strings.Join(row, "\t"))
		}
	}
	fmt.Fprintln(w, strings.Join(sums, "\t"))
}

func judge(names []string, reports []report, listed map[string]string) []string {
	var complaints []string
	for _, test := range names {
		if o := reports[0].results[test]; o != "pass" && o != "skip" {
			complaints = append(complaints, test+": "+reports[0].name+" does not pass")
		}
		ran, passed := 0, 0
		for _, r := range reports[1:] {
			switch r.results[test] {
			case "pass":
				ran, passed = ran+1, passed+1
			case "fail":
				ran++
			}
		}
		_, named := listed[test]
		if ran > 0 && passed == 0 && !named {
			complaints = append(complaints, test+": passes on no other runtime: wrong, or to be named as a difference")
		}
		if passed > 0 && named {
			complaints = append(complaints, test+": named as a difference, and another runtime passes")
		}
	}
	return complaints
}

func readDifferences(path string) (map[string]string, error) {
	listed := map[string]string{}
	if path == "" {
		return listed, nil
	}
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	for _, line := range strings.Split(string(text), "\n") {
		name, reason, _ := strings.Cut(strings.TrimSpace(line), " ")
		if name == "" || name[0] == '#' {
			continue
		}
		if reason = strings.TrimSpace(reason); reason == "" {
			return nil, fmt.Errorf("%s: %s: no reason", path, name)
		}
		listed[name] = reason
	}
	return listed, nil
}

// readReport takes the outcome of each test that has no subtests.
func readReport(path string) (map[string]string, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	results := map[string]string{}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var e struct{ Action, Test string }
		if json.Unmarshal(lines.Bytes(), &e) != nil || e.Test == "" {
			continue
		}
		switch e.Action {
		case "run":
			results[e.Test] = "fail" // until it has ended
		case "pass", "fail", "skip":
			results[e.Test] = e.Action
		}
	}
	for test := range results {
		for i := range test {
			if test[i] == '/' {
				delete(results, test[:i])
			}
		}
	}
	return results, lines.Err()
}
