package main

import (
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// outcome of a program.
type outcome int

const (
	pass  outcome = iota
	fail          // something was not ok, or the program did not come to its end
	empty         // nothing was tested
)

func (o outcome) String() string { return [...]string{"pass", "fail", "empty"}[o] }

// result is what a program had to say.
type result struct {
	outcome outcome
	ok, bad int
	why     string // first thing that was not ok
	took    time.Duration
}

func (r result) String() string {
	switch {
	case r.outcome == empty:
		return "-"
	case r.outcome == fail && r.bad == 0:
		return "FAIL"
	case r.outcome == fail:
		return fmt.Sprintf("FAIL %d of %d", r.bad, r.ok+r.bad)
	}
	return fmt.Sprintf("%d", r.ok)
}

// line is one result or the plan of the Test Anything Protocol; blocks between them are indented.
var line = regexp.MustCompile(`(?m)^(?:(ok|not ok)\b ?(\d*)(.*)|1\.\.(\d+))`)

// judgeTAP reads what a program wrote; err is how it ended.
func judgeTAP(stdout, stderr string, err error) result {
	r := result{}
	plan := -1
	skipped := 0
	for _, m := range line.FindAllStringSubmatch(stdout, -1) {
		switch {
		case m[4] != "":
			n, _ := strconv.Atoi(m[4])
			plan = max(plan, n) // some programs end with a second plan, of nothing
		case m[1] == "ok":
			r.ok++
			if strings.Contains(strings.ToUpper(m[3]), "# SKIP") {
				skipped++
			}
		default:
			r.bad++
			if r.why == "" {
				r.why = strings.Trim(m[3], " -")
			}
		}
	}
	said := firstLine(strings.TrimPrefix(stderr, "failed to create the container\n"))
	said = strings.TrimSpace(strings.TrimPrefix(said, "failed to start the container"))
	switch {
	case r.bad > 0:
		r.outcome = fail
		if said != "" {
			r.why += ": " + said
		}
	case err != nil:
		r.outcome, r.why = fail, fmt.Sprintf("%v: %s", err, said)
	case plan <= 0 && r.ok == 0:
		r.outcome, r.why = empty, "nothing tested"
	case plan != r.ok:
		r.outcome, r.why = fail, fmt.Sprintf("%d results of %d planned", r.ok, plan)
	case r.ok == skipped:
		r.outcome, r.why = empty, "all skipped"
	}
	return r
}
