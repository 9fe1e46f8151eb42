// Package oci speaks to OCI runtimes: berth-oci, runc, crun, youki, runsc and whatever else has runc's command line.
//
// A Handler is one configured runtime. The daemon never creates containers itself: it builds an argv here and has the
// pod's monitor execute it, so that the monitor is the parent of what comes out of it. Short operations that need no
// parent (kill, update, features, state) the handler runs itself.
//
//	create, exec      argv for the monitor        every runtime
//	start, delete     in this process             the native runtime: one byte to a socket; kill and rmdir by cgroup
//	                  by running the program      any other
//
// Every answer is the runtime's word only; what a container's state is, is decided from exit files (package sandbox).
package oci

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"

	"github.com/berth-runtime/berth/oci/launch/state"
)

// Handler is a runtime as configured. The zero value of all but Name and Path is fine.
type Handler struct {
	Name          string   // as in RuntimeClass
	Path          string   // of the program
	Root          string   // the runtime's --root; "": its own default
	Native        bool     // it is berth-oci: its state directory is ours to read
	SystemdCgroup bool     // cgroupsPath is slice:prefix:name
	Args          []string // more global arguments
	Program       *Program // the program to execute in place of Path where it can be had; nil: Path

	// NoHostDevices keeps the host's devices out of privileged containers.
	NoHostDevices bool
	// PodAnnotations and ContainerAnnotations are the keys of annotations that the runtime is given (AnnotationsFor).
	PodAnnotations, ContainerAnnotations []string

	Able Abilities // what Discover found
	Err  error     // why the runtime can't be used
}

// AnnotationsFor are the annotations of a pod and a container that the handler's configuration lets through to the runtime: a
// runtime may take annotations as orders, so none goes there unless its key is listed. An entry is a key, or the beginning of
// keys followed by "*". The container's win over the pod's.
func (h Handler) AnnotationsFor(pod, container map[string]string) map[string]string {
	out := map[string]string{}
	pick := func(from map[string]string, keys []string) {
		for k, v := range from {
			if slices.ContainsFunc(keys, func(key string) bool {
				prefix, open := strings.CutSuffix(key, "*")
				return k == key || open && strings.HasPrefix(k, prefix)
			}) {
				out[k] = v
			}
		}
	}
	pick(pod, h.PodAnnotations)
	pick(container, h.ContainerAnnotations)
	if len(out) == 0 {
		return nil
	}
	return out
}

// ExecArgs describe a process to run in a container.
type ExecArgs struct {
	ID            string
	Process       string // path of process.json; may be /proc/self/fd/N
	PidFile       string
	ConsoleSocket string // "": no terminal
	Cgroup        string // "[controller:]name" below the container's own; "": none
}

// global are the arguments before the command.
func (h Handler) global() []string {
	argv := []string{h.Path}
	if h.Root != "" {
		argv = append(argv, "--root", h.Root)
	}
	if h.SystemdCgroup {
		argv = append(argv, "--systemd-cgroup")
	}
	return append(argv, h.Args...)
}

// CreateArgv is the command that creates a container. Its standard streams become the container's.
func (h Handler) CreateArgv(id, bundle, pidFile, consoleSocket string) []string {
	argv := append(h.global(), "create", "--bundle", bundle, "--pid-file", pidFile)
	if consoleSocket != "" {
		argv = append(argv, "--console-socket", consoleSocket)
	}
	return append(argv, id)
}

// ExecArgv is the command that runs a process in a container and returns when it has been executed.
func (h Handler) ExecArgv(x ExecArgs) []string {
	argv := append(h.global(), "exec", "--detach", "--process", x.Process, "--pid-file", x.PidFile)
	if x.ConsoleSocket != "" {
		argv = append(argv, "--console-socket", x.ConsoleSocket)
	}
	if x.Cgroup != "" {
		argv = append(argv, "--cgroup", x.Cgroup)
	}
	return append(argv, x.ID)
}

// TakesCgroup reports whether exec takes this argument of --cgroup. There is no feature for it: runtimes are known by name.
func (h Handler) TakesCgroup(arg string) bool {
	return h.Native || h.Able.ExecController || h.Able.ExecCgroup && !strings.Contains(arg, ":")
}

// Start executes the program of a created container. An error tells why it could not be executed.
func (h Handler) Start(ctx context.Context, id string) error {
	if !h.Native {
		_, err := h.run(ctx, nil, "start", id)
		return err
	}
	d, err := state.Open(h.Root, id)
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := d.Read()
	if err != nil {
		return err
	}
	if len(s.Poststart) > 0 {
		_, err := h.run(ctx, nil, "start", id)
		return err
	}
	deadline, _ := ctx.Deadline()
	if err := d.Start(deadline); err != nil {
		return fmt.Errorf("start %s: %w", id, err)
	}
	return nil
}

// Delete kills what is left of a container and removes it. Idempotent.
func (h Handler) Delete(ctx context.Context, id string) error {
	if h.Native {
		return h.deleteNative(ctx, id)
	}
	if _, err := exec.LookPath(h.Path); err != nil {
		return h.forget(id)
	}
	_, err := h.run(ctx, nil, "delete", "--force", id)
	if err != nil && gone(err) {
		return nil
	}
	return err
}

// forget removes the state of a container whose runtime is no longer configured or installed: it is all that is left, for its
// processes and its cgroup are the caller's to remove.
func (h Handler) forget(id string) error {
	if h.Root == "" {
		return nil
	}
	return os.RemoveAll(filepath.Join(h.Root, filepath.Base(id)))
}

func (h Handler) deleteNative(ctx context.Context, id string) error {
	d, err := state.Open(h.Root, id)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer d.Close()
	s, err := d.Read()
	if err != nil {
		return err
	}
	if len(s.Poststop) > 0 {
		_, err := h.run(ctx, nil, "delete", "--force", id)
		return err
	}
	if err := s.End(ctx); err != nil {
		return fmt.Errorf("delete %s: %w", id, err)
	}
	return d.Remove()
}

// gone recognises the ways runtimes say that there is no such container; they have no class for it.
func gone(err error) bool {
	text := err.Error()
	return strings.Contains(text, "does not exist") || strings.Contains(text, "no such file or directory")
}

// Kill sends a signal to the container's process, or with all to every process in it.
func (h Handler) Kill(ctx context.Context, id string, sig syscall.Signal, all bool) error {
	args := []string{"kill"}
	if all {
		args = append(args, "--all")
	}
	_, err := h.run(ctx, nil, append(args, id, strconv.Itoa(int(sig)))...)
	return err
}

// Update changes the limits of a container.
func (h Handler) Update(ctx context.Context, id string, r *specs.LinuxResources) error {
	doc, err := json.Marshal(r)
	if err != nil {
		return err
	}
	_, err = h.run(ctx, doc, "update", "--resources", "-", id)
	return err
}

// Features asks what the runtime can do; errors.ErrUnsupported when it does not know the question.
func (h Handler) Features(ctx context.Context) (features.Features, error) {
	var f features.Features
	out, err := h.run(ctx, nil, "features")
	if err != nil {
		return f, fmt.Errorf("%w: %w", err, errors.ErrUnsupported)
	}
	if err := json.Unmarshal(out, &f); err != nil {
		return f, fmt.Errorf("%s features: %w", h.Name, err)
	}
	return f, nil
}

// State is the runtime's view of a container; fs.ErrNotExist when it knows none of that id.
func (h Handler) State(ctx context.Context, id string) (specs.State, error) {
	var s specs.State
	out, err := h.run(ctx, nil, "state", id)
	if err != nil {
		if gone(err) {
			err = fmt.Errorf("%w: %w", err, fs.ErrNotExist)
		}
		return s, err
	}
	if err := json.Unmarshal(out, &s); err != nil {
		return s, fmt.Errorf("%s state %s: %w", h.Name, id, err)
	}
	return s, nil
}

// run executes the runtime and returns its standard output. The last line on its standard error is the error's text.
func (h Handler) run(ctx context.Context, stdin []byte, args ...string) ([]byte, error) {
	argv := append(h.global(), args...)
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.WaitDelay = 10 * time.Second // far above what a busy machine needs to read a pipe
	var out, said bytes.Buffer
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(stdin), &out, &said
	err := cmd.Run()
	if err == nil {
		return out.Bytes(), nil
	}
	if ctx.Err() != nil {
		err = ctx.Err()
	}
	return nil, fmt.Errorf("%s %s: %w%s", h.Name, args[0], err, lastLine(said.String()))
}

func lastLine(s string) string {
	s = strings.TrimSpace(s)
	if s == "" {
		return ""
	}
	return ": " + Said(s[strings.LastIndexByte(s, '\n')+1:])
}

// Said takes the message out of a line that a runtime program has logged: runc writes logfmt, with the message last.
func Said(line string) string {
	before, msg, ok := strings.Cut(line, " level=error msg=")
	if !ok {
		return line
	}
	if i := strings.LastIndex(before, "time="); i >= 0 {
		before = before[:i]
	}
	if text, err := strconv.Unquote(msg); err == nil {
		msg = text
	}
	return before + msg
}

// spoken is an error with the message of a runtime program in it made readable.
type spoken struct{ error }

func (s spoken) Error() string { return Said(s.error.Error()) }
func (s spoken) Unwrap() error { return s.error }

// Spoken makes what a runtime program logged in err readable.
func Spoken(err error) error {
	if err == nil {
		return nil
	}
	return spoken{err}
}

// Find looks for a runtime's program: an absolute path, or a name in PATH.
func Find(program string) (string, error) {
	if strings.HasPrefix(program, "/") {
		_, err := os.Stat(program)
		return program, err
	}
	return exec.LookPath(program)
}
