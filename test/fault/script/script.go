// Package script tells test programs what to do, and notes what they were asked to do.
//
// A script is a directory. A file named like a step says what happens at that step; without one the step succeeds.
// Its first word is the action, the rest is for whoever carries it out: "hang" keeps the step waiting until the file
// says something else or is gone; "times N ACTION" does the action N times and then no more. The file "calls" gets a
// line for each step taken. Programs and tests need nothing else of each other.
package script

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Dir is a script's directory; "" is a script in which every step succeeds.
type Dir string

// Step notes that a step was begun for a subject and returns what is to be done: the action and the text that goes with it,
// both empty for success. It returns only after a "hang" is over.
func (d Dir) Step(step, subject string) (action, text string) {
	if d == "" {
		return "", ""
	}
	d.note(step, subject)
	for {
		b, err := os.ReadFile(filepath.Join(string(d), step))
		if err != nil {
			return "", ""
		}
		action, text, _ = strings.Cut(strings.TrimSpace(string(b)), " ")
		switch action {
		case "hang":
			time.Sleep(3 * time.Millisecond)
		case "times":
			return d.count(step)
		default:
			return action, text
		}
	}
}

// note appends to the list of calls; appends of one line don't mix.
func (d Dir) note(step, subject string) {
	f, err := os.OpenFile(filepath.Join(string(d), "calls"), os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	fmt.Fprintf(f, "%s %s\n", step, subject)
}

// count takes one off "times N ACTION".
func (d Dir) count(step string) (action, text string) {
	f, err := os.OpenFile(filepath.Join(string(d), step), os.O_RDWR, 0)
	if err != nil {
		return "", ""
	}
	defer f.Close()
	if syscall.Flock(int(f.Fd()), syscall.LOCK_EX) != nil {
		return "", ""
	}
	b := make([]byte, 4096)
	n, _ := f.Read(b)
	words := strings.SplitN(strings.TrimSpace(string(b[:n])), " ", 3)
	if len(words) < 3 {
		return "", ""
	}
	left, err := strconv.Atoi(words[1])
	if err != nil || left <= 0 {
		return "", ""
	}
	f.Truncate(0)
	fmt.Fprintf(&at{f: f}, "times %d %s", left-1, words[2])
	action, text, _ = strings.Cut(words[2], " ")
	return action, text
}

// at writes to a file from its beginning.
type at struct {
	f   *os.File
	off int64
}

func (a *at) Write(b []byte) (int, error) {
	n, err := a.f.WriteAt(b, a.off)
	a.off += int64(n)
	return n, err
}

// Set says what a step does from now on; "" lets it succeed.
func (d Dir) Set(step, what string) error {
	name := filepath.Join(string(d), step)
	if what == "" {
		if err := os.Remove(name); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	if err := os.WriteFile(name+".tmp", []byte(what), 0o644); err != nil {
		return err
	}
	return os.Rename(name+".tmp", name)
}

// Calls returns how often a step was begun, for any subject.
func (d Dir) Calls(step string) (n int) {
	b, err := os.ReadFile(filepath.Join(string(d), "calls"))
	if err != nil {
		return 0
	}
	for l := range strings.Lines(string(b)) {
		if name, _, _ := strings.Cut(l, " "); name == step {
			n++
		}
	}
	return n
}
