package plan

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io/fs"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/cgroup"
)

// Config is a config.json with its seccomp section left alone, and the sections of other systems: to decode into a type,
// package encoding/json first looks at all types that it holds, and theirs are a third of all.
type Config struct {
	specs.Spec
	Solaris json.RawMessage `json:"solaris,omitempty"`
	Windows json.RawMessage `json:"windows,omitempty"`
	VM      json.RawMessage `json:"vm,omitempty"`
	ZOS     json.RawMessage `json:"zos,omitempty"`
	FreeBSD json.RawMessage `json:"freebsd,omitempty"`

	Linux    Linux    `json:"linux"`
	Warnings []string `json:"-"` // what is not as the config says and need not stop the container
}

// Linux is the section of that name.
type Linux struct {
	specs.Linux
	Resources *cgroup.Resources `json:"resources,omitempty"` // same shape; JSON names match without case
	Seccomp   json.RawMessage   `json:"seccomp,omitempty"`
}

// Parse reads a config.json and refuses what can be seen to be wrong without the host.
func Parse(text []byte) (*Config, error) {
	c := new(Config)
	if err := json.Unmarshal(text, c); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if string(c.Linux.Seccomp) == "null" {
		c.Linux.Seccomp = nil
	}
	return c, c.check()
}

// ParseProcess reads no more of a config.json than its process, for an exec.
func ParseProcess(text []byte) (*specs.Process, error) {
	var c struct {
		Process *specs.Process `json:"process"`
	}
	if err := json.Unmarshal(text, &c); err != nil {
		return nil, fmt.Errorf("config.json: %w", err)
	}
	if c.Process == nil {
		return nil, invalid("process: missing")
	}
	return c.Process, checkProcess(c.Process)
}

func (c *Config) check() error {
	switch {
	case !strings.HasPrefix(c.Version, "1."):
		return invalid("ociVersion %q: only 1.x is known", c.Version)
	case c.Root == nil:
		return invalid("root: missing")
	case c.Process == nil:
		return invalid("process: missing")
	}
	for _, refused := range [...]struct {
		section json.RawMessage
		name    string
	}{
		{c.Solaris, "solaris"}, {c.Windows, "windows"}, {c.VM, "vm"}, {c.ZOS, "zos"}, {c.FreeBSD, "freebsd"},
	} {
		if len(refused.section) > 0 && string(refused.section) != "null" {
			return unsupported(refused.name)
		}
	}
	if err := checkProcess(c.Process); err != nil {
		return err
	}
	if p := c.Linux.RootfsPropagation; p != "" && propagationWord(p) == 0 {
		return invalid("linux.rootfsPropagation %q: not known", p)
	}
	for name, list := range map[string][]string{"maskedPaths": c.Linux.MaskedPaths, "readonlyPaths": c.Linux.ReadonlyPaths} {
		for i, p := range list {
			if !strings.HasPrefix(p, "/") {
				return invalid("linux.%s[%d] %q: not an absolute path", name, i, p)
			}
		}
	}
	if name := c.Process.User.Username; name != "" {
		c.warn("process.user.username %q: of Windows; uid and gid count", name)
	}
	if err := c.checkAllMaps(); err != nil {
		return err
	}
	return c.checkMounts()
}

func (c *Config) checkMounts() error {
	for i := range c.Mounts {
		m := &c.Mounts[i]
		if m.Destination == "" || strings.ContainsRune(m.Destination, 0) {
			return invalid("mounts[%d].destination %q: not a path", i, m.Destination)
		}
		if m.Destination[0] != '/' { // allowed still, deprecated (config.md, "Mounts")
			c.warn("mounts[%d].destination %q: relative, taken from /", i, m.Destination)
			m.Destination = "/" + m.Destination
		}
	}
	return nil
}

func (c *Config) warn(format string, args ...any) {
	c.Warnings = append(c.Warnings, "config.json: "+fmt.Sprintf(format, args...))
}

// escapedEnv opens an entry of process.env that is not UTF-8 and so cannot stand in JSON; the base64 of its bytes follows. A NUL
// byte can begin no entry, so nothing else is meant. It is the caller's sandbox/compile.EscapedEnv.
const escapedEnv = "\x00base64:"

// checkProcess refuses what cannot be run, and puts entries of the environment that came escaped in clear.
func checkProcess(p *specs.Process) error {
	switch {
	case len(p.Args) == 0 || p.Args[0] == "":
		return invalid("process.args: empty")
	case !strings.HasPrefix(p.Cwd, "/"):
		return invalid("process.cwd %q: not an absolute path", p.Cwd)
	case p.CommandLine != "":
		return unsupported("process.commandLine")
	case p.OOMScoreAdj != nil && (*p.OOMScoreAdj < -1000 || *p.OOMScoreAdj > 1000):
		return invalid("process.oomScoreAdj %d: not within -1000 and 1000", *p.OOMScoreAdj)
	}
	for i, s := range p.Args {
		if strings.ContainsRune(s, 0) {
			return invalid("process.args[%d]: NUL byte", i)
		}
	}
	for i, s := range p.Env {
		if text, ok := strings.CutPrefix(s, escapedEnv); ok {
			raw, err := base64.StdEncoding.DecodeString(text)
			if err != nil {
				return invalid("process.env[%d]: %v", i, err)
			}
			s = string(raw)
			p.Env[i] = s
		}
		if strings.ContainsRune(s, 0) {
			return invalid("process.env[%d]: NUL byte", i)
		}
	}
	return nil
}

func invalid(format string, args ...any) error {
	return fmt.Errorf("config.json: %s: %w", fmt.Sprintf(format, args...), fs.ErrInvalid)
}
