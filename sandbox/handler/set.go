// Package handler knows the configured OCI runtimes: which there are, what each can do, and what a foreign one needs around it.
//
// The native runtime takes a root file system as a mount in the specification, and descriptors as sources. A foreign one (runc,
// crun, …) expects directories where everything is mounted already. Mounting them on the host would leave mounts behind, so each
// run of its "create" gets a mount namespace of its own in which that is done (Stage), of which the container's is a copy.
//
//	Set      the runtimes by name; Discover asks them for their features
//	Roots    the directory below which Stages are mounted
//	Stage    what is mounted for one container
//
// Nothing of pods or the CRI may live here.
package handler

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/sandbox/host"
)

// Set is the configured OCI runtimes, the default first. What a foreign one can do is asked when the daemon starts; one
// that could not be used then is asked again when a pod wants it.
type Set struct {
	list atomic.Pointer[[]oci.Handler]
	mu   sync.Mutex // guards replacing list
}

// Discover asks every foreign runtime, side by side. A runtime that can't be used costs the pods that want it, nothing else.
func (h *Set) Discover(ctx context.Context, list []oci.Handler, log *slog.Logger) {
	list = slices.Clone(list)
	var all sync.WaitGroup
	for i := range list {
		if list[i].Native {
			list[i].Program.Open() // now: what a daemon holds does not depend on what it has done
			continue
		}
		all.Add(1)
		// ends when the runtime's program has answered, or its time is up.
		go func() {
			defer all.Done()
			list[i] = list[i].Discover(ctx)
		}()
	}
	all.Wait()
	for _, one := range list {
		switch {
		case one.Err != nil:
			log.Warn("runtime handler is not usable", "handler", one.Name, "path", one.Path, "err", one.Err)
		case !one.Native:
			log.Info("runtime handler", "handler", one.Name, "path", one.Path, "spec", one.Able.Version,
				"user_namespaces", one.Able.UserNamespaces, "recursive_read_only", one.Able.RecursiveReadOnly)
		}
	}
	h.list.Store(&list)
}

// Get returns the runtime handler of that name; "" is the default.
func (h *Set) Get(name string) (oci.Handler, error) {
	list := *h.list.Load()
	if name == "" {
		return list[0], nil
	}
	for _, one := range list {
		if one.Name == name {
			return one, nil
		}
	}
	return oci.Handler{}, fmt.Errorf("runtime handler %.80q is not configured: %w", name, fs.ErrInvalid)
}

// Usable is Get for a new pod: the handler has to work. One that did not is asked again.
func (h *Set) Usable(ctx context.Context, name string) (oci.Handler, error) {
	one, err := h.Get(name)
	if err != nil || one.Usable() == nil {
		return one, err
	}
	one = one.Discover(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	list := slices.Clone(*h.list.Load())
	for i := range list {
		if list[i].Name == one.Name {
			list[i] = one
		}
	}
	h.list.Store(&list)
	return one, one.Usable()
}

// Foreign reports whether there is any runtime but the native one.
func (h *Set) Foreign() bool {
	return slices.ContainsFunc(*h.list.Load(), func(one oci.Handler) bool { return !one.Native })
}

// Info is what Status reports of a runtime handler (CRI RuntimeHandlerFeatures).
type Info struct {
	Name                             string `json:"name"`
	Path                             string `json:"path"`
	Version                          string `json:"ociVersion,omitempty"` // newest runtime-spec
	RecursiveReadOnly, UserNamespace bool
	Err                              string `json:"error,omitempty"` // why it can't be used
}

// Info lists the default handler under the empty name, then every handler by its own. What the kernel lacks, no handler has.
func (h *Set) Info(facts host.Facts) []Info {
	one := func(name string, x oci.Handler) Info {
		i := Info{Name: name, Path: x.Path, Version: x.Able.Version}
		if x.Err != nil {
			i.Err = x.Err.Error()
			return i
		}
		i.RecursiveReadOnly = facts.MountSetattr && (x.Native || x.Able.RecursiveReadOnly)
		i.UserNamespace = facts.IDMapOverlay && (x.Native || x.Able.UserNamespaces)
		return i
	}
	list := *h.list.Load()
	out := []Info{one("", list[0])}
	for _, x := range list {
		out = append(out, one(x.Name, x))
	}
	return out
}
