package launch

import (
	"fmt"
	"io/fs"

	"github.com/berth-runtime/berth/oci/launch/state"
)

// The texts by which callers of runtimes tell errors apart: the command line has no other way. containerd's shim looks
// for "does not exist", "container not running" and "no such process", Podman for "no such file or directory",
// "permission denied" and "executable file not found in".
const (
	textNotExist   = "container does not exist"
	textExist      = "container with given ID already exists"
	textNotRunning = "container not running"
	textNotPaused  = "container not paused"
)

// refusal is an error with a text that callers match, and a class.
type refusal struct {
	id, text string
	class    error
}

func (r *refusal) Error() string { return fmt.Sprintf("%s: %s", r.id, r.text) }
func (r *refusal) Unwrap() error { return r.class }

// mayExec says why there can be no exec in a container of some status.
func mayExec(id string, s state.Status, ignorePaused bool) error {
	switch {
	case s == state.Stopped:
		return &refusal{id, textNotRunning + ": cannot exec in a stopped container", fs.ErrInvalid}
	case s == state.Paused && !ignorePaused:
		return &refusal{id, "cannot exec in a paused container (use --ignore-paused to override)", fs.ErrInvalid}
	}
	return nil
}

// mayStart says why there can be no start.
func mayStart(id string, s state.Status) error {
	switch s {
	case state.Stopped:
		return &refusal{id, "cannot start a container that has stopped", fs.ErrInvalid}
	case state.Running:
		return &refusal{id, "cannot start an already running container", fs.ErrInvalid}
	}
	return &refusal{id, "cannot start a container in the " + string(s) + " state", fs.ErrInvalid}
}
