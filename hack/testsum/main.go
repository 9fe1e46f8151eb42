// Testsum reads results of tests and ends with one line: N passed, N failed, N skipped.
//
//	go test -json ./... | testsum              shows failures and skip reasons, totals at the end
//	testsum -junit FILE...                     the same from JUnit reports
//	testsum -totals FILE                       in addition adds its counts to FILE; -print sums the file up
//
// A test counts when it has no subtests of its own; a package that does not build or dies counts as one failure.
// The exit status is 1 if anything failed, or if nothing ran at all.
package main

import (
	"bufio"
	"encoding/json"
	"encoding/xml"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// sum is what was counted. Skips keeps each reason with the tests it was given for.
type sum struct {
	passed, failed int
	skipped        int
	failures       []string
	skips          map[string][]string
}

func main() {
	junit := flag.Bool("junit", false, "arguments are JUnit reports")
	totals := flag.String("totals", "", "file that collects counts")
	final := flag.Bool("print", false, "print the sum of the totals file")
	name := flag.String("name", "", "what these tests are, for the totals line")
	quiet := flag.Bool("q", false, "don't echo output of failing tests")
	flag.Parse()
	if *final {
		os.Exit(printTotals(*totals))
	}
	s := sum{skips: map[string][]string{}}
	var err error
	if *junit {
		err = s.junit(flag.Args())
	} else {
		err = s.gotest(os.Stdin, *quiet)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		s.failed++
	}
	s.report(*name)
	if *totals != "" {
		if err := appendTotals(*totals, s); err != nil {
			fmt.Fprintln(os.Stderr, "testsum:", err)
			os.Exit(1)
		}
	}
	if s.failed > 0 || s.passed+s.skipped == 0 {
		os.Exit(1)
	}
}

func (s *sum) report(name string) {
	for _, reason := range sorted(s.skips) {
		fmt.Printf("skipped: %s\n", reason)
		for _, t := range s.skips[reason] {
			fmt.Printf("    %s\n", t)
		}
	}
	slices.Sort(s.failures)
	for _, f := range s.failures {
		fmt.Printf("FAILED: %s\n", f)
	}
	if name != "" {
		name += ": "
	}
	fmt.Printf("%s%d passed, %d failed, %d skipped\n", name, s.passed, s.failed, s.skipped)
}

func sorted(m map[string][]string) []string {
	var out []string
	for k, v := range m {
		out = append(out, k)
		slices.Sort(v)
	}
	slices.Sort(out)
	return out
}

// event is one line of go test -json.
type event struct {
	Action, Package, ImportPath, Test, Output string
}

// run is what go test said, by package and test: "package\ttest", with no test for the package itself.
type run struct {
	output map[string][]string
	result map[string]string
	parent map[string]bool
}

// gotest counts the leaves of the tree of tests.
func (s *sum) gotest(in io.Reader, quiet bool) error {
	r, err := readRun(in)
	for id, action := range r.result {
		s.count(r, id, action)
		if strings.HasSuffix(action, "fail") && !quiet {
			fmt.Print(strings.Join(r.output[id], ""))
		}
	}
	return err
}

func readRun(in io.Reader) (run, error) {
	r := run{output: map[string][]string{}, result: map[string]string{}, parent: map[string]bool{}}
	lines := bufio.NewScanner(in)
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		var e event
		if json.Unmarshal(lines.Bytes(), &e) != nil {
			fmt.Println(lines.Text())
			continue
		}
		if e.Package == "" {
			e.Package = e.ImportPath
		}
		id := e.Package + "\t" + e.Test
		switch e.Action {
		case "run":
			if i := strings.LastIndexByte(e.Test, '/'); i > 0 {
				r.parent[e.Package+"\t"+e.Test[:i]] = true
			}
		case "output", "build-output":
			if !strings.HasPrefix(e.Output, "=== ") {
				r.output[id] = append(r.output[id], e.Output)
			}
		case "pass", "fail", "skip", "build-fail":
			r.result[id] = e.Action
		}
	}
	return r, lines.Err()
}

// count takes one result. A parent's or a package's failure counts only when nothing below it explains it.
func (s *sum) count(r run, id, action string) {
	pkg, test, _ := strings.Cut(id, "\t")
	name := strings.TrimSpace(pkg + " " + test)
	inner := test == "" || r.parent[id]
	switch {
	case action == "build-fail", action == "fail" && !inner:
		s.fail(name)
	case action == "fail":
		if !r.explained(id) {
			s.fail(name)
		}
	case inner:
	case action == "skip":
		s.skip(reason(r.output[id]), name)
	default:
		s.passed++
	}
}

// explained tells whether something below a failed parent or package failed too.
func (r run) explained(id string) bool {
	pkg, test, _ := strings.Cut(id, "\t")
	below := id
	if test != "" {
		below += "/"
	}
	for other, action := range r.result {
		if action == "fail" && other != id && strings.HasPrefix(other, below) || action == "build-fail" && strings.HasPrefix(other, pkg) {
			return true
		}
	}
	return false
}

func (s *sum) fail(name string) {
	s.failed++
	s.failures = append(s.failures, name)
}

func (s *sum) skip(why, name string) {
	s.skipped++
	s.skips[why] = append(s.skips[why], name)
}

// reason finds what was given to t.Skip: the last line that starts with a source position.
func reason(out []string) string {
	for _, l := range slices.Backward(out) {
		l = strings.TrimSpace(l)
		if strings.HasPrefix(l, "---") || strings.HasPrefix(l, "===") || l == "" {
			continue
		}
		if _, after, ok := strings.Cut(l, ".go:"); ok {
			if _, text, ok := strings.Cut(after, ": "); ok {
				return text
			}
		}
		return l
	}
	return "no reason given"
}

// suites is the part of a JUnit report that ginkgo writes.
type suites struct {
	Suite []struct {
		Case []struct {
			Name    string `xml:"name,attr"`
			Status  string `xml:"status,attr"`
			Skipped *struct {
				Message string `xml:"message,attr"`
			} `xml:"skipped"`
			Failure *struct {
				Message string `xml:"message,attr"`
			} `xml:"failure"`
			Error *struct {
				Message string `xml:"message,attr"`
			} `xml:"error"`
		} `xml:"testcase"`
	} `xml:"testsuite"`
}

// junit leaves out what ginkgo's filters left out, and suite nodes that are no specs unless they failed.
func (s *sum) junit(files []string) error {
	for _, f := range files {
		raw, err := os.ReadFile(f)
		if err != nil {
			return err
		}
		var x suites
		if err := xml.Unmarshal(raw, &x); err != nil {
			return fmt.Errorf("%s: %w", f, err)
		}
		for _, suite := range x.Suite {
			for _, c := range suite.Case {
				switch {
				case c.Failure != nil:
					s.fail(c.Name + ": " + firstLine(c.Failure.Message))
				case c.Error != nil:
					s.fail(c.Name + ": " + firstLine(c.Error.Message))
				case !strings.HasPrefix(c.Name, "[It]"):
				case c.Skipped == nil:
					s.passed++
				case c.Skipped.Message != "skipped":
					s.skip(firstLine(strings.TrimPrefix(c.Skipped.Message, "skipped - ")), c.Name)
				}
			}
		}
	}
	return nil
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}

func appendTotals(file string, s sum) error {
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if _, err := fmt.Fprintln(f, s.passed, s.failed, s.skipped); err != nil {
		f.Close()
		return err
	}
	return f.Close()
}

func printTotals(file string) int {
	f, err := os.Open(file)
	if err != nil {
		fmt.Fprintln(os.Stderr, "testsum:", err)
		return 1
	}
	defer f.Close()
	var s, one sum
	for {
		if _, err := fmt.Fscan(f, &one.passed, &one.failed, &one.skipped); err != nil {
			break
		}
		s.passed, s.failed, s.skipped = s.passed+one.passed, s.failed+one.failed, s.skipped+one.skipped
	}
	s.report("")
	if s.failed > 0 || s.passed == 0 {
		return 1
	}
	return 0
}
