package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/BurntSushi/toml"
)

// native is the name of the built-in runtime handler; no foreign one may take it.
const native = "berth"

// load makes the configuration out of defaults, file and command line, the later winning.
func load(w io.Writer, name string, args []string) (*config, error) {
	c := defaults()
	opts := c.options()
	set, given, file := flags(name, opts)
	set.SetOutput(io.Discard)
	set.Usage = func() { fmt.Fprintf(w, "Usage: berth %s [flags]\n\n%s", name, flagHelp()) }
	if err := set.Parse(args); err != nil {
		return nil, usageError{err}
	}
	if set.NArg() > 0 {
		return nil, usageError{fmt.Errorf("unexpected argument %q: every setting is a flag", set.Arg(0))}
	}
	named := false
	set.Visit(func(f *flag.Flag) { named = named || f.Name == "config" })
	if err := c.readFile(opts, *file, named); err != nil {
		return nil, err
	}
	for _, o := range opts {
		if text, ok := given[o.key]; ok {
			if err := o.set(text); err != nil {
				return nil, usageError{fmt.Errorf("--%s: %w", o.flag(), err)}
			}
		}
	}
	return c, c.finish()
}

// readFile applies a configuration file. One that was not named may be missing.
func (c *config) readFile(opts []option, path string, named bool) error {
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) && !named {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	return c.parse(opts, path, data)
}

// parse applies the text of a configuration file. Errors begin with "file:line: ".
func (c *config) parse(opts []option, path string, data []byte) error {
	var all map[string]any
	if _, err := toml.Decode(string(data), &all); err != nil {
		var pe toml.ParseError
		if errors.As(err, &pe) {
			return fmt.Errorf("%s:%d: %s: %w", path, pe.Position.Line, pe.Message, fs.ErrInvalid)
		}
		return fmt.Errorf("%s: %w", path, err)
	}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		var err error
		at := lineOf(data, "", key)
		if key == "handlers" {
			at, err = c.parseHandlers(data, all[key])
		} else if i := slices.IndexFunc(opts, func(o option) bool { return o.key == key }); i >= 0 {
			err = opts[i].setValue(all[key])
		} else {
			err = unknown(key, opts)
		}
		if err != nil {
			return fmt.Errorf("%s:%d: %w", path, at, err)
		}
	}
	return nil
}

// unknown refuses a key, and names the one that was probably meant.
func unknown(key string, opts []option) error {
	alike := strings.ToLower(strings.ReplaceAll(key, "-", "_"))
	for _, o := range opts {
		if o.key == alike || strings.ReplaceAll(o.key, "_", "") == alike {
			return fmt.Errorf("unknown key %q: did you mean %q? %w", key, o.key, fs.ErrInvalid)
		}
	}
	return fmt.Errorf("unknown key %q: %w: `berth config` prints all that exist", key, fs.ErrInvalid)
}

// setValue takes a decoded TOML value.
func (o option) setValue(v any) error {
	text, want := fmt.Sprint(v), "a string"
	ok := false
	switch o.value.(type) {
	case *string:
		_, ok = v.(string)
	case *bool:
		want = "true or false"
		_, ok = v.(bool)
	case *int64:
		want = "a number"
		_, ok = v.(int64)
	}
	if !ok {
		return fmt.Errorf("%s: want %s: %w", o.key, want, fs.ErrInvalid)
	}
	if err := o.set(text); err != nil {
		return fmt.Errorf("%s: %w", o.key, err)
	}
	return nil
}

// lineOf finds the line that sets the key in the section, or else the one that begins the section; 1 if neither can
// be found. The TOML library does not keep positions of what it has decoded.
func lineOf(data []byte, section, key string) int {
	word := func(s string) string { return `["']?` + regexp.QuoteMeta(s) + `["']?` }
	head := regexp.MustCompile(`^\s*\[+\s*([^\]]+?)\s*\]`)
	set := regexp.MustCompile(`^\s*` + word(key) + `\s*[.=]`)
	current, found := "", 1
	for i, line := range strings.Split(string(data), "\n") {
		if m := head.FindStringSubmatch(line); m != nil {
			current = strings.NewReplacer(`"`, "", `'`, "", " ", "").Replace(m[1])
			if current == section || section == "" && (current == key || strings.HasPrefix(current, key+".")) {
				found = i + 1
			}
			continue
		}
		if current == section && key != "" && set.MatchString(line) {
			return i + 1
		}
	}
	return found
}

// finish fills in what depends on other settings.
func (c *config) finish() error {
	if c.Listen == "" {
		c.Listen = "unix://" + filepath.Join(c.State, "berth.sock")
	}
	c.Root, c.State = filepath.Clean(c.Root), filepath.Clean(c.State)
	if c.Root == c.State {
		return fmt.Errorf("root and state are both %s: %w: give each a directory of its own", c.Root, fs.ErrInvalid)
	}
	if err := c.Stream.check(); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	for name, path := range map[string]*string{"berth-monitor": &c.MonitorBin, "berth-oci": &c.OCIBin, "berth-bridge": &c.Bin} {
		if *path == "" {
			*path = filepath.Join(filepath.Dir(self), name)
		}
	}
	return nil
}

// checkPrograms refuses a daemon that could start nothing.
func (c *config) checkPrograms() error {
	needed := []struct{ path, flag string }{{c.MonitorBin, "--monitor"}, {c.OCIBin, "--oci"}}
	if c.BuiltinNetwork {
		needed = append(needed, struct{ path, flag string }{c.Bin, "--bridge"})
	}
	for _, p := range needed {
		if _, err := exec.LookPath(p.path); err != nil {
			return fmt.Errorf("%w: install it beside berth, or name it with %s", err, p.flag)
		}
	}
	return nil
}

// printConfig is the command "config".
func printConfig(io std, args []string) error {
	c, err := load(io.out, "config", args)
	if err != nil {
		return err
	}
	c.print(io.out)
	return nil
}

// print writes the configuration in the form parse reads.
func (c *config) print(w io.Writer) {
	standard := defaults().options()
	for i, o := range c.options() {
		note := ""
		if def := standard[i].text(); def != o.text() && def != `""` {
			note = ", default " + def
		}
		fmt.Fprintf(w, "# %s%s\n%s = %s\n\n", o.help, note, o.key, o.text())
	}
	for _, h := range c.Handlers {
		h.print(w)
	}
}

// JSON is the configuration as verbose Status shows it. critest looks for stateDir.
func (c *config) JSON() json.RawMessage {
	out := map[string]any{"stateDir": c.State, "rootDir": c.Root}
	for _, o := range c.options() {
		out[o.key] = o.value // json follows the pointer
	}
	b, _ := json.Marshal(out) // strings, booleans and numbers only
	return b
}

// quoteTOML makes a basic string: JSON's escapes are a subset of TOML's.
func quoteTOML(s string) string {
	b, _ := json.Marshal(s)
	return string(b)
}

func quoteKey(s string) string {
	if strings.Contains(s, ".") {
		return quoteTOML(s)
	}
	return s
}
