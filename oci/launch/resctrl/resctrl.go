// Package resctrl puts containers into groups of the resctrl file system: shares of caches and memory bandwidth, and
// monitoring (config-linux.md, "IntelRdt"; Documentation/filesystems/resctrl.rst of the kernel).
//
//	/sys/fs/resctrl/<closID, or the container's id>/    schemata, tasks
//	    mon_groups/<id>/tasks                            with enableMonitoring
//
// Plan looks and decides, so that what Make is going to make can be written down before; Remove takes that list. A
// group that was there before is never removed.
package resctrl

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Root is where the kernel's documentation has it mounted.
const Root = "/sys/fs/resctrl"

// magic is RDTGROUP_SUPER_MAGIC (linux/magic.h).
const magic = 0x7655821

// Mounted tells whether there is a resctrl file system; the error names what is missing.
func Mounted() error {
	var st unix.Statfs_t
	if err := unix.Statfs(Root, &st); err != nil || st.Type != magic {
		return fmt.Errorf("no resctrl file system at %s: %w", Root, errors.ErrUnsupported)
	}
	return nil
}

// Plan is what a container asks for.
type Plan struct {
	Group  string   // directory of the group
	Make   []string // directories to be made
	Remove []string // of them, those that end with the container: not a class of service, which others may use by now
	Tasks  []string // files that take the container's processes
	Lines  []string // for the schemata file
	verify []string // of them, what the group must have already
	mkdir  func(string) error
}

// Decide reads the section against what is there. It changes nothing.
func Decide(root, id string, c *specs.LinuxIntelRdt) (*Plan, error) {
	if err := check(c); err != nil {
		return nil, err
	}
	p := &Plan{mkdir: func(name string) error { return os.Mkdir(name, 0o755) }}
	for _, l := range append([]string{c.L3CacheSchema, c.MemBwSchema}, c.Schemata...) {
		if l != "" {
			p.Lines = append(p.Lines, l)
		}
	}
	p.Group = root + "/" + id
	if c.ClosID != "" {
		p.Group = strings.TrimRight(root+"/"+c.ClosID, "/")
	}
	_, err := os.Stat(p.Group)
	switch there := err == nil; {
	case err != nil && !os.IsNotExist(err):
		return nil, err
	case c.ClosID == "" && there:
		return nil, fmt.Errorf("%s: %w", p.Group, fs.ErrExist)
	case c.ClosID != "" && !there && len(p.Lines) == 0:
		return nil, fmt.Errorf("closID %s without a schema: %w", c.ClosID, fs.ErrNotExist)
	case there:
		p.verify, p.Lines = p.Lines, nil
	default:
		p.Make = append(p.Make, p.Group)
		if c.ClosID == "" {
			p.Remove = append(p.Remove, p.Group)
		}
	}
	p.Tasks = []string{p.Group + "/tasks"}
	if c.EnableMonitoring {
		mon := p.Group + "/mon_groups/" + id
		p.Make, p.Remove, p.Tasks = append(p.Make, mon), append(p.Remove, mon), append(p.Tasks, mon+"/tasks")
	}
	return p, nil
}

func check(c *specs.LinuxIntelRdt) error {
	switch id := c.ClosID; {
	case id == ".", id == "..", id != "/" && strings.Contains(id, "/"), id == "info", id == "mon_groups", id == "mon_data", strings.ContainsRune(id, 0):
		return fmt.Errorf("closID %q: %w", id, fs.ErrInvalid)
	case c.MemBwSchema != "" && !strings.HasPrefix(c.MemBwSchema, "MB:"):
		return fmt.Errorf("memBwSchema %q: %w", c.MemBwSchema, fs.ErrInvalid)
	}
	for _, l := range append([]string{c.L3CacheSchema, c.MemBwSchema}, c.Schemata...) {
		if strings.ContainsAny(l, "\n\x00") {
			return fmt.Errorf("schema %q: %w", l, fs.ErrInvalid)
		}
	}
	return nil
}

// Create makes the groups and sets their shares. What a group that is shared has already is compared, not written.
func (p *Plan) Create() error {
	for _, d := range p.Make {
		if err := p.mkdir(d); err != nil {
			return err
		}
	}
	if len(p.Lines) > 0 {
		return write(p.Group+"/schemata", strings.Join(p.Lines, "\n")+"\n")
	}
	if len(p.verify) == 0 {
		return nil
	}
	text, err := os.ReadFile(p.Group + "/schemata")
	if err != nil {
		return err
	}
	have := map[string]map[string]string{}
	for line := range strings.Lines(string(text)) {
		kind, shares := parse(line)
		have[kind] = shares
	}
	for _, line := range p.verify {
		kind, shares := parse(line)
		for cache, value := range shares {
			if have[kind][cache] != value {
				return fmt.Errorf("%s: %q wanted, %s:%s=%s there: %w", p.Group, line, kind, cache, have[kind][cache], fs.ErrInvalid)
			}
		}
	}
	return nil
}

// parse reads "L3:0=0ff;1=f": the kernel pads and orders as it likes.
func parse(line string) (string, map[string]string) {
	kind, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
	out := map[string]string{}
	for _, part := range strings.Split(rest, ";") {
		cache, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		if value = strings.ToLower(strings.TrimLeft(strings.TrimSpace(value), "0")); value == "" {
			value = "0"
		}
		out[strings.TrimSpace(cache)] = value
	}
	return strings.TrimSpace(kind), out
}

// Enter moves a process into the groups behind the given tasks files.
func Enter(tasks []string, pid int) error {
	for _, file := range tasks {
		if err := write(file, strconv.Itoa(pid)); err != nil {
			return err
		}
	}
	return nil
}

// Remove removes what Create has made, last first; what is gone is removed.
func Remove(dirs []string) error {
	var errs []error
	for _, d := range slices.Backward(dirs) {
		if err := os.Remove(d); err != nil && !os.IsNotExist(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func write(name, value string) error {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.WriteString(value)
	return err
}
