package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"
)

// suite is the set of programs and how to run them.
type suite struct {
	programs string
	out      string
	jobs     int
	released bool
	correct  bool
	match    *regexp.Regexp
}

// limit is far above what any program takes on an idle machine (30 s: several wait ten seconds for a state).
const limit = 5 * time.Minute

// run runs the programs with one runtime, jobs at a time, and returns their results in order.
func (s *suite) run(name, path string, programs []string) ([]result, error) {
	self, err := os.Executable()
	if err != nil {
		return nil, err
	}
	if path, err = filepath.Abs(path); err != nil {
		return nil, err
	}
	dir := filepath.Join(s.out, name)
	root, err := os.MkdirTemp("", "ocitest-root")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(root)
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	env := append(os.Environ(), "RUNTIME="+self, shimRuntime+"="+path, shimRoot+"="+root)
	if s.released {
		env = append(env, shimReleased+"=1")
	}
	if s.correct {
		env = append(env, shimCorrect+"=1")
	}
	results := make([]result, len(programs))
	turn := make(chan struct{}, s.jobs)
	var wg sync.WaitGroup
	var cgroup sync.Mutex
	for i, p := range programs {
		turn <- struct{}{}
		wg.Add(1)
		// ends when the program has ended or its time is over
		go func() {
			defer func() { <-turn; wg.Done() }()
			if sharesCgroup(p) {
				cgroup.Lock()
				defer cgroup.Unlock()
			}
			results[i] = s.one(p, dir, env)
		}()
	}
	wg.Wait()
	for i, p := range programs { // programs wait for fixed times, and signal a shell that may not have come to its trap
		if results[i].outcome == fail {
			if again := s.one(p, dir, env); again.outcome == pass {
				fmt.Printf("%s: %s passed when run again, alone; before: %s\n", name, p, results[i].why)
				results[i] = again
			}
		}
	}
	return results, nil
}

// sharesCgroup tells which programs put their containers into cgroups whose names are compiled in, the same for all.
func sharesCgroup(program string) bool {
	return strings.HasPrefix(program, "linux_cgroups") || program == "delete_only_create_resources" || program == "delete_resources"
}

func (s *suite) one(program, dir string, env []string) result {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(s.programs, program))
	var stdout, stderr bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = s.programs, env, &stdout, &stderr
	cmd.WaitDelay = 10 * time.Second // what a container inherited keeps the pipes open
	begin := time.Now()
	err := cmd.Run()
	r := judgeTAP(stdout.String(), stderr.String(), err)
	if ctx.Err() != nil {
		r = result{outcome: fail, why: fmt.Sprintf("no end within %v", limit)}
	}
	r.took = time.Since(begin)
	text := fmt.Sprintf("%s\n---- standard error, %v\n%s", stdout.String(), err, stderr.String())
	if err := os.WriteFile(filepath.Join(dir, program), []byte(text), 0o644); err != nil {
		r = result{outcome: fail, why: err.Error()}
	}
	return r
}

func firstLine(s string) string {
	s, _, _ = strings.Cut(strings.TrimSpace(s), "\n")
	return s
}
