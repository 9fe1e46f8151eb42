package oci

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os/exec"
	"slices"
	"time"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/opencontainers/runtime-spec/specs-go/features"
)

// discoverTime bounds the questions to one runtime program.
const discoverTime = 10 * time.Second

// Abilities are what of a runtime's optional features matters to its user.
type Abilities struct {
	Version           string // the newest runtime-spec it knows; "": it does not say
	RecursiveReadOnly bool   // mount option rro
	UserNamespaces    bool   // and id-mapped mounts, without which volumes would belong to nobody
	// ExecCgroup: exec takes --cgroup NAME (cgroup2). ExecController: also --cgroup CONTROLLER:NAME (cgroup v1), as runc does
	// since 1.1; crun would make groups of that name in all hierarchies.
	ExecCgroup, ExecController bool
	// Known is false for a runtime that does not know the question.
	Known bool
}

// Discover returns the handler with its Abilities, or with Err set where the program can't be used. A runtime that does not know
// "features" (runtime-spec 1.1, features.md) but tells its version is usable, without any optional feature.
func (h Handler) Discover(ctx context.Context) Handler {
	ctx, cancel := context.WithTimeout(ctx, discoverTime)
	defer cancel()
	h.Able, h.Err = Abilities{}, nil
	if _, err := exec.LookPath(h.Path); err != nil {
		h.Err = err
		return h
	}
	f, err := h.Features(ctx)
	if err != nil {
		if _, verr := h.run(ctx, nil, "--version"); verr != nil || !errors.Is(err, errors.ErrUnsupported) {
			h.Err = err
		}
		return h
	}
	h.Able = abilities(f)
	if h.Err = usable(f); h.Err != nil {
		h.Err = fmt.Errorf("%s features: %w", h.Name, h.Err)
	}
	return h
}

func abilities(f features.Features) Abilities {
	a := Abilities{Known: true, Version: f.OCIVersionMax, RecursiveReadOnly: slices.Contains(f.MountOptions, "rro")}
	_, runc := f.Annotations["org.opencontainers.runc.version"]
	_, crun := f.Annotations["run.oci.crun.version"]
	a.ExecCgroup, a.ExecController = runc || crun, runc
	l := f.Linux
	if l == nil {
		return a
	}
	idmap := l.MountExtensions != nil && l.MountExtensions.IDMap != nil && l.MountExtensions.IDMap.Enabled != nil && *l.MountExtensions.IDMap.Enabled
	a.UserNamespaces = idmap && slices.Contains(l.Namespaces, string(specs.UserNamespace))
	return a
}

// usable refuses a runtime that says it lacks what every container needs. A list that is missing says nothing.
func usable(f features.Features) error {
	if f.Linux == nil || f.Linux.Namespaces == nil {
		return nil
	}
	for _, ns := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.NetworkNamespace, specs.IPCNamespace, specs.UTSNamespace} {
		if !slices.Contains(f.Linux.Namespaces, string(ns)) {
			return fmt.Errorf("no %s namespaces: %w", ns, errors.ErrUnsupported)
		}
	}
	return nil
}

// Usable is nil for a handler that can run containers, and otherwise why not.
func (h Handler) Usable() error {
	if h.Err == nil {
		return nil
	}
	return fmt.Errorf("runtime handler %s is not usable: %w: %w", h.Name, fs.ErrInvalid, h.Err)
}
