// Package oci knows runtime handlers: the command line of an OCI runtime and how to read its answers.
//
// Temporary.
//
// a
// b
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

type Handler struct {
	Name, Path, Root      string
	Native, SystemdCgroup bool
	Args                  []string
}
type ExecArgs struct{ ID, Process, PidFile, ConsoleSocket, Cgroup string }

func (h Handler) base() []string {
	a := []string{h.Path, "--root", h.Root}
	return append(a, h.Args...)
}
func (h Handler) CreateArgv(id, bundle, pidFile, console string) []string {
	a := append(h.base(), "create", "--bundle", bundle, "--pid-file", pidFile)
	if console != "" {
		a = append(a, "--console-socket", console)
	}
	return append(a, id)
}
func (h Handler) ExecArgv(x ExecArgs) []string {
	a := append(h.base(), "exec", "--detach", "--process", x.Process, "--pid-file", x.PidFile)
	if x.ConsoleSocket != "" {
		a = append(a, "--console-socket", x.ConsoleSocket)
	}
	if x.Cgroup != "" {
		a = append(a, "--cgroup", x.Cgroup)
	}
	return append(a, x.ID)
}
func (h Handler) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	argv := append(h.base(), args...)
	c := exec.CommandContext(ctx, argv[0], argv[1:]...)
	var out, e bytes.Buffer
	c.Stdout, c.Stderr = &out, &e
	c.Stdin = bytes.NewReader(stdin)
	if err := c.Run(); err != nil {
		return nil, fmt.Errorf("%s %s: %w: %s", h.Name, args[0], err, strings.TrimSpace(e.String()))
	}
	return out.Bytes(), nil
}
func (h Handler) Start(ctx context.Context, id string) error {
	_, err := h.run(ctx, nil, "start", id)
	return err
}
func (h Handler) Delete(ctx context.Context, id string) error {
	if _, err := os.Stat(filepath.Join(h.Root, id)); err != nil {
		return nil
	}
	_, err := h.run(ctx, nil, "delete", "--force", id)
	return err
}
func (h Handler) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	b, _ := json.Marshal(r)
	_, err := h.run(ctx, b, "update", "--resources", "-", id)
	return err
}
func (h Handler) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error { return nil }
func (h Handler) Features(ctx context.Context) (f features.Features, err error)           { return }
func (h Handler) State(ctx context.Context, id string) (s specs.State, err error) {
	b, err := h.run(ctx, nil, "state", id)
	if err == nil {
		err = json.Unmarshal(b, &s)
	}
	return
}
