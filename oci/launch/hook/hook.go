// Package hook runs the hooks of a container (runtime specification, config.md, "POSIX-platform Hooks").
//
// A hook is a program of the host that is handed the container's state on its standard input. It must end with status
// 0 within its timeout; otherwise it is killed and the operation it belongs to does not succeed, poststop excepted,
// where that is a warning. Hooks of one kind run one after the other, in their order.
//
// createContainer and startContainer hooks run inside of the container's namespaces and reach the init as steps of its
// program; all others are run by the runtime itself.
package hook

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"sync/atomic"
	"time"

	"github.com/berth-runtime/berth/oci/launch/program"
)

// Hook is one program to run. Args[0] is its name; Timeout 0 means none.
type Hook struct {
	Path    string        `json:"path"`
	Args    []string      `json:"args,omitempty"`
	Env     []string      `json:"env,omitempty"`
	Timeout time.Duration `json:"timeout,omitempty"`
}

// separator divides arguments from environment in a step: no argument can hold a NUL byte.
const separator = "\x00"

// Step puts the hook into the form a program carries.
func (h Hook) Step(state []byte) program.Step {
	list := append(append(append([]string(nil), h.Args...), separator), h.Env...)
	return program.Step{Op: program.OpRun, Slot: -1, Path: h.Path, List: list, Num: int64(h.Timeout), Data: string(state)}
}

// FromStep is the inverse of Step.
func FromStep(s *program.Step) Hook {
	h := Hook{Path: s.Path, Timeout: time.Duration(s.Num)}
	for i, a := range s.List {
		if a == separator {
			h.Args, h.Env = s.List[:i], s.List[i+1:]
			break
		}
	}
	return h
}

// Run runs the hook with state on its standard input. What it writes is part of the error.
func (h Hook) Run(state []byte) error {
	if err := h.run(state); err != nil {
		return fmt.Errorf("hook %s: %w", h.Path, err)
	}
	return nil
}

func (h Hook) run(state []byte) error {
	in, feed, err := os.Pipe()
	if err != nil {
		return err
	}
	defer feed.Close()
	out, said, err := os.Pipe()
	if err != nil {
		in.Close()
		return err
	}
	defer out.Close()
	argv := h.Args
	if len(argv) == 0 {
		argv = []string{h.Path}
	}
	p, err := os.StartProcess(h.Path, argv, &os.ProcAttr{Env: append([]string{}, h.Env...), Files: []*os.File{in, said, said}})
	in.Close()
	said.Close()
	if err != nil {
		return err
	}
	text := make(chan string, 1)
	// ends when the hook and its children have closed their output, or run returns and closes the pipe
	go func() { text <- tail(out) }()
	// ends when the state is written or the hook is gone (EPIPE)
	go func() { io.Copy(feed, bytes.NewReader(state)); feed.Close() }()
	return h.wait(p, text)
}

func (h Hook) wait(p *os.Process, text <-chan string) error {
	var late atomic.Bool
	if h.Timeout > 0 {
		t := time.AfterFunc(h.Timeout, func() { late.Store(true); p.Kill() })
		defer t.Stop()
	}
	st, err := p.Wait()
	switch {
	case late.Load():
		return fmt.Errorf("no end within %v: %w", h.Timeout, os.ErrDeadlineExceeded)
	case err != nil:
		return err
	case st.Success():
		return nil
	}
	select {
	case s := <-text:
		return fmt.Errorf("%v: %s", st, s)
	case <-time.After(100 * time.Millisecond):
		return fmt.Errorf("%v", st)
	}
}

func tail(r io.Reader) string {
	b, _ := io.ReadAll(io.LimitReader(r, 4096))
	io.Copy(io.Discard, r)
	return strings.TrimSpace(string(b))
}
