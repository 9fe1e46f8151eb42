// Leaks compares the machine at two moments, for scripts:
//
//	leaks save FILE        remember what is there
//	leaks compare FILE     list what has been added since, waiting up to 5 seconds for it to go; status 1 if any
//
// Only processes of container runtimes and of their tests are looked at, so that it can run on a machine that does
// other things as well.
package main

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"time"

	"github.com/berth-runtime/berth/test/e2e/leak"
)

// runtimes are the programs that count.
var runtimes = regexp.MustCompile(`^(berth.*|containerd.*|runc.*|critest|images)$`)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: leaks save|compare FILE")
		os.Exit(2)
	}
	left, err := run(os.Args[1], os.Args[2])
	if err != nil {
		fmt.Fprintln(os.Stderr, "leaks:", err)
		os.Exit(2)
	}
	for _, l := range left {
		fmt.Println(l)
	}
	if len(left) > 0 {
		os.Exit(1)
	}
}

func run(verb, file string) ([]string, error) {
	if verb == "save" {
		now, err := look()
		if err != nil {
			return nil, err
		}
		raw, err := json.Marshal(now)
		if err != nil {
			return nil, err
		}
		return nil, os.WriteFile(file, raw, 0o644)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	var before leak.Snapshot
	if err := json.Unmarshal(raw, &before); err != nil {
		return nil, err
	}
	for end := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		now, err := look()
		if err != nil {
			return nil, err
		}
		if left := now.Since(before); len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
	}
}

func look() (leak.Snapshot, error) {
	now, err := leak.Take(leak.Options{})
	maps.DeleteFunc(now, func(what string, _ int) bool {
		line, ok := strings.CutPrefix(what, "process: ")
		program, _, _ := strings.Cut(line, " ")
		return ok && !runtimes.MatchString(filepath.Base(program))
	})
	return now, err
}
