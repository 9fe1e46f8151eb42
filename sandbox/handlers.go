package sandbox

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

// handlers are the configured OCI runtimes, the default first. What a foreign one can do is asked when the daemon starts; one
// that could not be used then is asked again when a pod wants it.
type handlers struct {
	list atomic.Pointer[[]oci.Handler]
	mu   sync.Mutex // guards replacing list
}

// discover asks every foreign runtime, side by side. A runtime that can't be used costs the pods that want it, nothing else.
func (h *handlers) discover(ctx context.Context, list []oci.Handler, log *slog.Logger) {
	list = slices.Clone(list)
	var all sync.WaitGroup
	for i := range list {
		if list[i].Native {
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

// get returns the runtime handler of that name; "" is the default.
func (h *handlers) get(name string) (oci.Handler, error) {
	list := *h.list.Load()
	if name == "" {
		return list[0], nil
	}
	for _, one := range list {
		if one.Name == name {
			return one, nil
		}
	}
	return oci.Handler{}, fmt.Errorf("runtime handler %s is not configured: %w", short(name), fs.ErrInvalid)
}

// usable is get for a new pod: the handler has to work. One that did not is asked again.
func (h *handlers) usable(ctx context.Context, name string) (oci.Handler, error) {
	one, err := h.get(name)
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

// foreign reports whether there is any runtime but the native one.
func (h *handlers) foreign() bool {
	return slices.ContainsFunc(*h.list.Load(), func(one oci.Handler) bool { return !one.Native })
}

// HandlerInfo is what Status reports of a runtime handler (CRI RuntimeHandlerFeatures).
type HandlerInfo struct {
	Name                             string `json:"name"`
	Path                             string `json:"path"`
	Version                          string `json:"ociVersion,omitempty"` // newest runtime-spec
	RecursiveReadOnly, UserNamespace bool
	Err                              string `json:"error,omitempty"` // why it can't be used
}

// info lists the default handler under the empty name, then every handler by its own. What the kernel lacks, no handler has.
func (h *handlers) info(facts host.Facts) []HandlerInfo {
	one := func(name string, x oci.Handler) HandlerInfo {
		i := HandlerInfo{Name: name, Path: x.Path, Version: x.Able.Version}
		if x.Err != nil {
			i.Err = x.Err.Error()
			return i
		}
		i.RecursiveReadOnly = facts.MountSetattr && (x.Native || x.Able.RecursiveReadOnly)
		i.UserNamespace = facts.IDMapOverlay && (x.Native || x.Able.UserNamespaces)
		return i
	}
	list := *h.list.Load()
	out := []HandlerInfo{one("", list[0])}
	for _, x := range list {
		out = append(out, one(x.Name, x))
	}
	return out
}
