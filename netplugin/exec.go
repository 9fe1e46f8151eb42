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
	var stdout, stderr head
	c := exec.CommandContext(ctx, path)
	c.Env, c.Stdin, c.Stdout, c.Stderr = environ, bytes.NewReader(stdin), &stdout, &stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	c.Cancel = func() error { return syscall.Kill(-c.Process.Pid, syscall.SIGKILL) }
	c.WaitDelay = pipeDelay
	err := c.Run()
	if err == nil || errors.Is(err, exec.ErrWaitDelay) {
		if stdout.over {
			return nil, fmt.Errorf("exec %s: more than %d bytes of output", filepath.Base(path), maxOutput)
		}
		return stdout.Bytes(), nil
	}
	if cerr := context.Cause(ctx); cerr != nil {
		return nil, fmt.Errorf("exec %s: %w", filepath.Base(path), cerr)
	}
	return nil, fmt.Errorf("exec %s: %w: %w", filepath.Base(path), err, pluginError(stdout.Bytes(), stderr.Bytes()))
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
