// Package cdi applies the Container Device Interface: a device is asked for by a qualified name, vendor/class=name, and files
// that the vendor has put on the node say what a container needs to have it (CDI SPEC.md 1.1): environment, device nodes,
// mounts, hooks, additional groups.
//
// Names come from the CRI's field, and from annotations that begin with "cdi.k8s.io/", the older way; a device asked for twice
// is had once. The files are read anew for each container that asks for a device, and never for another: a vendor may
// write them a moment before. Nothing is kept.
//
// The files are the administrator's, not the pod's: what they say is done. Reading and applying them is the CDI project's
// library; this package knows no pods.
package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"reflect"
	"slices"
	"strings"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
)

// DefaultDirs are where vendors put their files; of two that describe one device the one in the later directory counts.
func DefaultDirs() []string { return []string{"/etc/cdi", "/var/run/cdi"} }

// maxDevices bounds what one container may ask for.
const maxDevices = 1024

// Names joins the names of the request's field and of its annotations, each once, in that order. A name that is not qualified
// is fs.ErrInvalid.
func Names(field []string, annotations map[string]string) ([]string, error) {
	all := slices.Clone(field)
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		if strings.HasPrefix(key, cdi.AnnotationPrefix) {
			all = append(all, strings.Split(annotations[key], ",")...)
		}
	}
	var out []string
	for _, n := range all {
		if !parser.IsQualifiedName(n) {
			return nil, fmt.Errorf("CDI device %q is not of the form vendor/class=name: %w", clip(n), fs.ErrInvalid)
		}
		if !slices.Contains(out, n) {
			out = append(out, n)
		}
		if len(out) > maxDevices {
			return nil, fmt.Errorf("more than %d CDI devices: %w", maxDevices, fs.ErrInvalid)
		}
	}
	return out, nil
}

// Apply changes spec so that the container has the devices. A device that no file describes is an error that names it.
// spec is half changed after an error.
func Apply(spec *specs.Spec, dirs, names []string) error {
	if len(names) == 0 {
		return nil
	}
	cache, err := cdi.NewCache(cdi.WithAutoRefresh(false), cdi.WithSpecDirs(dirs...))
	if err != nil {
		return fmt.Errorf("read CDI files: %w", err)
	}
	before := slices.Clone(spec.Mounts)
	unknown, err := cache.InjectDevices(spec, names...)
	if len(unknown) > 0 {
		return fmt.Errorf("CDI device %s is not described in %s%w", strings.Join(unknown, ", "), strings.Join(dirs, " or "), broken(cache))
	}
	if err != nil {
		return fmt.Errorf("CDI devices %s: %w", strings.Join(names, ", "), err)
	}
	spec.Mounts = order(before, spec.Mounts)
	return nil
}

// broken tells of files that could not be read: the device may be in one of them.
func broken(cache *cdi.Cache) error {
	all := cache.GetErrors()
	for _, file := range slices.Sorted(maps.Keys(all)) {
		return brokenFile{fmt.Errorf("%s: %w", file, errors.Join(all[file]...))}
	}
	return brokenFile{}
}

// brokenFile is the end of an error's text, and nothing where there is no broken file.
type brokenFile struct{ err error }

func (b brokenFile) Error() string {
	if b.err == nil {
		return ""
	}
	return "; not readable there: " + strings.ReplaceAll(b.err.Error(), "\n", "; ")
}

func (b brokenFile) Unwrap() error { return b.err }

// order puts the mounts that were added among those that were there: parents before children, the root first, and what was
// there in the order it had. The library sorts too, but not stably, and knows no mount at "/".
func order(before, after []specs.Mount) []specs.Mount {
	var added []specs.Mount
	for _, m := range after {
		if !slices.ContainsFunc(before, func(o specs.Mount) bool { return reflect.DeepEqual(o, m) }) {
			added = append(added, m)
		}
	}
	list := slices.DeleteFunc(slices.Clone(before), func(o specs.Mount) bool {
		return slices.ContainsFunc(added, func(m specs.Mount) bool { return path.Clean(m.Destination) == path.Clean(o.Destination) })
	})
	list = append(list, added...)
	depth := func(m specs.Mount) int {
		p := path.Clean(m.Destination)
		if p == "/" {
			return 0
		}
		return strings.Count(p, "/")
	}
	slices.SortStableFunc(list, func(a, b specs.Mount) int { return depth(a) - depth(b) })
	return list
}

func clip(s string) string {
	if len(s) > 100 {
		return s[:100] + "…"
	}
	return s
}
