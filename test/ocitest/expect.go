package main

import (
	"bufio"
	"fmt"
	"os"
	"slices"
	"strings"
	"syscall"
)

// expectation is one line of the file of expectations: a program that does not pass, what it says, and why that is so.
//
//	PROGRAM  fail|empty|races  CONDITION  "TEXT"  REASON
//
// One that races fails or passes as time will have it: another suite has to cover what it is about.
// CONDITION is any, or words of host() that must all hold, joined by "+". TEXT must be part of what the program says.
// A program may be listed more than once, for the different ways in which it fails.
type expectation struct {
	outcome outcome
	races   bool // it may pass as well
	text    string
	reason  string
}

func readExpectations(name string, facts []string) (map[string][]expectation, error) {
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	list := map[string][]expectation{}
	lines := bufio.NewScanner(f)
	for n := 1; lines.Scan(); n++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" || text[0] == '#' {
			continue
		}
		words := strings.Fields(text)
		e, holds, err := expectationOf(text, facts)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		if holds {
			list[words[0]] = append(list[words[0]], e)
		}
	}
	return list, lines.Err()
}

func expectationOf(text string, facts []string) (e expectation, holds bool, err error) {
	head, rest, ok := strings.Cut(text, `"`)
	said, reason, closed := strings.Cut(rest, `"`)
	words := strings.Fields(head)
	if !ok || !closed || len(words) != 3 || strings.TrimSpace(reason) == "" {
		return e, false, fmt.Errorf(`PROGRAM fail|empty|races CONDITION "TEXT" REASON wanted`)
	}
	e.text, e.reason = said, strings.TrimSpace(reason)
	switch words[1] {
	case "fail":
		e.outcome = fail
	case "empty":
		e.outcome = empty
	case "races":
		e.outcome, e.races = fail, true
	default:
		return e, false, fmt.Errorf("%q: fail, empty or races wanted", words[1])
	}
	holds = true
	for _, c := range strings.Split(words[2], "+") {
		holds = holds && (c == "any" || slices.Contains(facts, c))
	}
	return e, holds, nil
}

// cgroup2Magic is CGROUP2_SUPER_MAGIC of linux/magic.h.
const cgroup2Magic = 0x63677270

// host says what of the machine decides about expectations: cgroup1 or cgroup2, and apparmor, selinux and sys-resource,
// each with "no-" before it where that is missing; besides, uncorrected or corrected (--correct).
func host() []string {
	var facts []string
	var fs syscall.Statfs_t
	if syscall.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == cgroup2Magic {
		facts = append(facts, "cgroup2")
	} else {
		facts = append(facts, "cgroup1")
	}
	for name, path := range map[string]string{"apparmor": "/sys/kernel/security/apparmor", "selinux": "/sys/fs/selinux/enforce"} {
		if _, err := os.Stat(path); err != nil {
			name = "no-" + name
		}
		facts = append(facts, name)
	}
	if sysResource() {
		return append(facts, "sys-resource")
	}
	return append(facts, "no-sys-resource")
}

// mayPass tells whether a program with these expectations may pass.
func mayPass(list []expectation) bool {
	return !slices.ContainsFunc(list, func(e expectation) bool { return !e.races })
}

// covers tells whether what happened is what was expected.
func (e expectation) covers(r result) bool {
	return e.outcome == r.outcome && strings.Contains(r.why, e.text)
}
