package netplugin

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containernetworking/cni/pkg/invoke"
	"github.com/containernetworking/cni/pkg/types"
	"github.com/containernetworking/cni/pkg/version"
)

const (
	// maxOutput bounds what is kept of a plugin's stdout and stderr, in bytes each.
	maxOutput = 1 << 20
	// pipeDelay is how long a process that left the plugin's group may keep its pipes open after the plugin ended.
	pipeDelay = 500 * time.Millisecond
	// busyRetries and busyDelay are how often and after what time a program that is being written is tried again.
	busyRetries = 20
	busyDelay   = 50 * time.Millisecond
	// builtinType is the plugin type that may be found at Options.BuiltinBin.
	builtinType = "berth-bridge"
)

// pluginExec runs plugins for libcni: each in a process group of its own, which dies with the context.
type pluginExec struct {
	version.PluginDecoder
	builtin string
}

var _ invoke.Exec = (*pluginExec)(nil)

// FindInPath finds the program of a plugin type.
func (e *pluginExec) FindInPath(plugin string, dirs []string) (string, error) {
	path, err := invoke.FindInPath(plugin, dirs)
	if err != nil && plugin == builtinType && e.builtin != "" {
		return exec.LookPath(e.builtin)
	}
	return path, err
}

// ExecPlugin runs a plugin to its end and returns its stdout.
func (e *pluginExec) ExecPlugin(ctx context.Context, path string, stdin []byte, environ []string) ([]byte, error) {
	name := filepath.Base(path)
	var stdout, stderr head
	err := run(ctx, path, stdin, environ, &stdout, &stderr)
	for range busyRetries {
		// The program is being replaced: whoever installs plugins has it open for writing.
		if !errors.Is(err, syscall.ETXTBSY) {
			break
		}
		time.Sleep(busyDelay)
		err = run(ctx, path, stdin, environ, &stdout, &stderr)
	}
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		if stdout.over {
			return nil, fmt.Errorf("exec %s: more than %d bytes of output", name, maxOutput)
		}
		return stdout.Bytes(), nil
	}
	if cerr := context.Cause(ctx); cerr != nil {
		return nil, fmt.Errorf("exec %s: %w", name, cerr)
	}
	return nil, fmt.Errorf("exec %s: %w: %w", name, err, pluginError(stdout.Bytes(), stderr.Bytes()))
}

// run runs a program in a process group of its own, all of which is killed when the context ends.
func run(ctx context.Context, path string, stdin []byte, environ []string, out ...*head) error {
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), out[0], out[1]
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = pipeDelay
	return c.Run()
}

// pluginError is the error a plugin printed, or what it said instead of one.
func pluginError(stdout, stderr []byte) error {
	e := &types.Error{}
	if json.Unmarshal(stdout, e) == nil && (e.Msg != "" || e.Code != 0) {
		return e
	}
	text := strings.TrimSpace(string(stderr))
	if text == "" {
		text = strings.TrimSpace(string(stdout))
	}
	if text == "" {
		return errors.New("no error message")
	}
	const most = 512
	if len(text) > most {
		text = text[len(text)-most:]
	}
	return fmt.Errorf("%q", text)
}

// head keeps the first maxOutput bytes written to it and swallows the rest.
type head struct {
	bytes.Buffer
	over bool
}

func (t *head) Write(b []byte) (int, error) {
	room := maxOutput - t.Len()
	if len(b) > room {
		t.over = true
		t.Buffer.Write(b[:room])
		return len(b), nil
	}
	return t.Buffer.Write(b)
}
