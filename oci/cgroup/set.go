package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
)

// Set writes the limits in r. It is transactional: when the kernel refuses one,
// those already written get their old values back and the error names the file.
// Device rules come last. A frozen group can be Set.
func (g *Group) Set(r *Resources) error {
	if r == nil {
		return nil
	}
	p := planner{has: g.has, read: g.read}
	writes, err := p.plan(r)
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, err)
	}
	undo, err := g.apply(writes)
	if err == nil && r.Devices != nil {
		err = g.devices(r.Devices)
	}
	if err == nil {
		err = g.tellSystemd(r)
	}
	if err != nil {
		return fmt.Errorf("limit cgroup %s: %w", g.path, errors.Join(err, g.restore(undo)))
	}
	g.fresh = false
	return nil
}

func (g *Group) has(controller string) (v2, ok bool) {
	h := g.lay.tree(controller)
	return h != nil && h.v2, h != nil
}

func (g *Group) read(controller, file string) string {
	d := g.dir(controller)
	if d == nil {
		return ""
	}
	b, _ := os.ReadFile(d.path + "/" + file)
	return strings.TrimRight(string(b), "\n")
}

// apply does the writes in order and returns how to undo those it did, last
// first. What a fresh group held before interests nobody.
func (g *Group) apply(writes []write) (undo []write, err error) {
	for _, w := range writes {
		d := g.dir(w.controller)
		if d == nil {
			if w.optional {
				continue
			}
			return undo, fmt.Errorf("%s = %q: controller %s is not mounted: %w", w.file, w.value, w.controller, errors.ErrUnsupported)
		}
		if d.v2 && w.controller != unifiedName {
			if err := g.enable(d, w.controller); err != nil && !w.optional {
				return undo, err
			}
		}
		back := w
		back.value, back.optional = w.old, true
		if w.old == "" && !g.fresh {
			back.value = g.read(w.controller, w.file)
		}
		err := writeFile(d.path+"/"+w.file, w.value)
		if errors.Is(err, fs.ErrNotExist) && w.optional {
			continue
		}
		if err != nil {
			return undo, err
		}
		if back.value != "" {
			undo = append([]write{back}, undo...)
		}
	}
	return undo, nil
}

func (g *Group) restore(undo []write) error {
	var errs []error
	for _, w := range undo {
		if d := g.dir(w.controller); d != nil {
			if err := writeFile(d.path+"/"+w.file, w.value); err != nil {
				errs = append(errs, fmt.Errorf("restore: %w", err))
			}
		}
	}
	return errors.Join(errs...)
}
