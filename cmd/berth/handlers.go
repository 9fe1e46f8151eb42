package main

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"github.com/berth-runtime/berth/oci"
)

// handler is a foreign OCI runtime, [handlers.NAME] in the file.
type handler struct {
	Name, Path, Root                     string
	Args                                 []string
	PrivilegedWithoutHostDevices         bool
	PodAnnotations, ContainerAnnotations []string
}

// handlerOption is a key of a [handlers.NAME] table. The value points into a handler.
type handlerOption struct {
	key   string
	help  string
	value any // *string, *bool or *[]string
	check func(string) error
}

// options returns the table over h.
func (h *handler) options() []handlerOption {
	return []handlerOption{
		{"path", "the runtime program", &h.Path, absolute},
		{"root", "the runtime's state directory; by default oci/NAME in the state directory", &h.Root, absolute},
		{"args", "arguments before every command", &h.Args, nil},
		{"privileged_without_host_devices", "privileged containers get the devices of any container", &h.PrivilegedWithoutHostDevices, nil},
		{"pod_annotations", "keys of pod annotations that the runtime is given, or their beginnings with * at the end", &h.PodAnnotations, annotationKey},
		{"container_annotations", "likewise of container annotations", &h.ContainerAnnotations, annotationKey},
	}
}

// annotationKey refuses what could match by accident: a runtime takes annotations as orders.
func annotationKey(s string) error {
	if body := strings.TrimSuffix(s, "*"); body == "" || strings.ContainsAny(body, "*\x00\n") {
		return fmt.Errorf("%q: %w: want the key of an annotation, or its beginning and *", s, fs.ErrInvalid)
	}
	return nil
}

// parseHandlers takes [handlers.NAME] tables, and returns the line of what it refuses.
func (c *config) parseHandlers(data []byte, v any) (int, error) {
	tables, ok := v.(map[string]any)
	if !ok {
		return lineOf(data, "", "handlers"), fmt.Errorf("handlers: want tables [handlers.NAME]: %w", fs.ErrInvalid)
	}
	for _, name := range slices.Sorted(maps.Keys(tables)) {
		section := "handlers." + name
		h, key, err := parseHandler(name, tables[name])
		if err != nil {
			return lineOf(data, section, key), fmt.Errorf("%s: %w", section, err)
		}
		c.Handlers = append(c.Handlers, h)
	}
	return 0, nil
}

// parseHandler takes one table, and returns the key of what it refuses.
func parseHandler(name string, v any) (h handler, key string, err error) {
	h.Name = name
	table, ok := v.(map[string]any)
	if !ok || !regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,61}[a-z0-9])?$`).MatchString(name) || name == native {
		return h, "", fmt.Errorf("not a name for a runtime handler: %w", fs.ErrInvalid)
	}
	opts := h.options()
	for _, key := range slices.Sorted(maps.Keys(table)) {
		i := slices.IndexFunc(opts, func(o handlerOption) bool { return o.key == key })
		if i < 0 {
			return h, key, fmt.Errorf("unknown key %q: %w: there are %s", key, fs.ErrInvalid, keysOf(opts))
		}
		if err := opts[i].set(table[key]); err != nil {
			return h, key, fmt.Errorf("%s: %w", key, err)
		}
	}
	if h.Path == "" {
		return h, "path", fmt.Errorf("path: %w: want an absolute path", fs.ErrInvalid)
	}
	return h, "", nil
}

func keysOf(opts []handlerOption) string {
	var keys []string
	for _, o := range opts {
		keys = append(keys, o.key)
	}
	return strings.Join(keys, ", ")
}

// set takes a decoded TOML value.
func (o handlerOption) set(v any) error {
	var texts []string
	switch to := o.value.(type) {
	case *string:
		s, ok := v.(string)
		if !ok {
			return fmt.Errorf("want a string: %w", fs.ErrInvalid)
		}
		texts, *to = []string{s}, s
	case *bool:
		b, ok := v.(bool)
		if !ok {
			return fmt.Errorf("want true or false: %w", fs.ErrInvalid)
		}
		*to = b
	case *[]string:
		list, ok := v.([]any)
		for _, e := range list {
			s, isText := e.(string)
			ok = ok && isText
			texts = append(texts, s)
		}
		if !ok {
			return fmt.Errorf("want strings: %w", fs.ErrInvalid)
		}
		*to = texts
	}
	for _, s := range texts {
		if o.check != nil {
			if err := o.check(s); err != nil {
				return err
			}
		}
	}
	return nil
}

// print writes the handler in the form parse reads.
func (h handler) print(w io.Writer) {
	fmt.Fprintf(w, "[handlers.%s]\n", quoteKey(h.Name))
	for _, o := range h.options() {
		switch v := o.value.(type) {
		case *string:
			if *v != "" {
				fmt.Fprintf(w, "%s = %s\n", o.key, quoteTOML(*v))
			}
		case *bool:
			fmt.Fprintf(w, "%s = %s\n", o.key, strconv.FormatBool(*v))
		case *[]string:
			list := make([]string, len(*v))
			for i, s := range *v {
				list[i] = quoteTOML(s)
			}
			fmt.Fprintf(w, "%s = [%s]\n", o.key, strings.Join(list, ", "))
		}
	}
	fmt.Fprintln(w)
}

// handlers are the runtimes; the native one comes first, which makes it the default.
func (c *config) handlers(systemd bool) []oci.Handler {
	root := func(name string) string { return filepath.Join(c.State, "oci", name) }
	out := []oci.Handler{{Name: native, Path: c.OCIBin, Root: root(native), Native: true, SystemdCgroup: systemd, Program: oci.NewProgram(c.OCIBin)}}
	for _, h := range c.Handlers {
		one := oci.Handler{
			Name: h.Name, Path: h.Path, Args: h.Args, Root: h.Root, SystemdCgroup: systemd,
			NoHostDevices: h.PrivilegedWithoutHostDevices, PodAnnotations: h.PodAnnotations, ContainerAnnotations: h.ContainerAnnotations,
		}
		if one.Root == "" {
			one.Root = root(h.Name)
		}
		out = append(out, one)
	}
	return out
}
