package compile

import (
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// EscapedEnv opens an entry of process.env whose bytes are not UTF-8 and which
// JSON therefore can't carry: after it comes the whole entry "NAME=value" in
// standard base64. No other entry can begin so, because a NUL byte can't be part
// of an environment; a runtime program that does not know the form can't start
// the process instead of starting it with a damaged value. Only used with
// Options.EscapeEnv; otherwise such a value is refused.
const EscapedEnv = "\x00base64:"

func (in *Input) process() (*specs.Process, error) {
	args, err := argv(in.Container, in.Image)
	if err != nil {
		return nil, err
	}
	env, err := in.env()
	if err != nil {
		return nil, err
	}
	adj := OOMScoreAdj(in.Container.GetLinux().GetResources(), in.Host)
	cwd, err := workingDir(in.Container, in.Image)
	if err != nil {
		return nil, err
	}
	return &specs.Process{
		Terminal: in.Container.GetTty(),
		User: specs.User{
			UID:            in.User.UID,
			GID:            in.User.GID,
			AdditionalGids: slices.Clone(in.User.Groups),
		},
		Args:            args,
		Env:             env,
		Cwd:             cwd,
		Capabilities:    in.capabilities(),
		NoNewPrivileges: in.security().GetNoNewPrivs(),
		OOMScoreAdj:     &adj,
	}, nil
}

// argv merges command lines: a command replaces the image's entrypoint and cmd,
// args alone replace cmd.
func argv(cc *rt.ContainerConfig, img ImageConfig) ([]string, error) {
	var args []string
	switch {
	case len(cc.GetCommand()) > 0:
		args = append(slices.Clone(cc.GetCommand()), cc.GetArgs()...)
	case len(cc.GetArgs()) > 0:
		args = append(slices.Clone(img.Entrypoint), cc.GetArgs()...)
	default:
		args = append(slices.Clone(img.Entrypoint), img.Cmd...)
	}
	if len(args) == 0 {
		return nil, invalid("command", "no command specified, and the image has none")
	}
	if args[0] == "" {
		return nil, invalid("command", "the program's name is empty")
	}
	for _, a := range args {
		if err := carriable("command", a); err != nil {
			return nil, err
		}
	}
	return args, nil
}

// carriable refuses strings that exec or JSON can't carry.
func carriable(field, s string) error {
	if !utf8.ValidString(s) {
		return invalid(field, "%q is not UTF-8", s)
	}
	return checkNUL(field, s)
}

func workingDir(cc *rt.ContainerConfig, img ImageConfig) (string, error) {
	if dir := cc.GetWorkingDir(); dir != "" {
		return path.Clean(dir), nil // absolute, as CheckContainer saw to
	}
	if err := carriable("image.config.working_dir", img.WorkingDir); err != nil {
		return "", err
	}
	return path.Join("/", img.WorkingDir), nil
}

// environ is an environment in which each name occurs once, in order of first
// appearance, with its last value.
type environ struct {
	entries []string
	at      map[string]int
}

func (e *environ) set(name, value string) {
	if i, ok := e.at[name]; ok {
		e.entries[i] = name + "=" + value
		return
	}
	e.at[name] = len(e.entries)
	e.entries = append(e.entries, name+"="+value)
}

func (e *environ) has(name string) bool { _, ok := e.at[name]; return ok }

func (in *Input) env() ([]string, error) {
	e := environ{at: map[string]int{}}
	e.set("PATH", defaultPath)
	if in.Container.GetTty() {
		e.set("TERM", "xterm")
	}
	e.set("HOSTNAME", Hostname(in.Pod, in.Host.Hostname))
	for _, kv := range in.Image.Env {
		// An entry without "=" or name is meaningless to every libc.
		if name, value, ok := strings.Cut(kv, "="); ok && name != "" {
			e.set(name, value)
		}
	}
	for _, kv := range in.Container.GetEnvs() {
		e.set(kv.GetKey(), string(kv.GetValue()))
	}
	if in.User.Home != "" && !e.has("HOME") {
		e.set("HOME", in.User.Home)
	}
	for i, kv := range e.entries {
		name, _, _ := strings.Cut(kv, "=")
		if err := checkNUL("envs["+name+"]", kv); err != nil {
			return nil, err
		}
		if utf8.ValidString(kv) {
			continue
		}
		if !in.Options.EscapeEnv {
			return nil, invalid("envs["+name+"]", "value is not UTF-8, which the OCI runtime can't be given")
		}
		e.entries[i] = EscapedEnv + base64.StdEncoding.EncodeToString([]byte(kv))
	}
	return e.entries, nil
}

// Hostname is the name a pod's containers see: the pod's, or the host's for
// pods on the host's network and pods that have none.
func Hostname(pod *rt.PodSandboxConfig, host string) string {
	if name := pod.GetHostname(); name != "" && Namespaces(pod).Net {
		return name
	}
	return host
}

// Process returns the process for an exec in the container that has spec: same
// user, groups, capabilities, labels, environment and working directory, another
// command line. TERM is added for a terminal unless the container has one. The
// result may be changed without changing spec.
func Process(spec *specs.Spec, cmd []string, tty bool) (*specs.Process, error) {
	if len(cmd) == 0 || cmd[0] == "" {
		return nil, invalid("cmd", "no command specified")
	}
	for i, a := range cmd {
		if err := carriable(fmt.Sprintf("cmd[%d]", i), a); err != nil {
			return nil, err
		}
	}
	p := *spec.Process
	p.Args = slices.Clone(cmd)
	p.Env = slices.Clone(p.Env)
	p.User.AdditionalGids = slices.Clone(p.User.AdditionalGids)
	if c := p.Capabilities; c != nil {
		p.Capabilities = &specs.LinuxCapabilities{
			Bounding:    slices.Clone(c.Bounding),
			Effective:   slices.Clone(c.Effective),
			Inheritable: slices.Clone(c.Inheritable),
			Permitted:   slices.Clone(c.Permitted),
			Ambient:     slices.Clone(c.Ambient),
		}
	}
	if p.OOMScoreAdj != nil {
		adj := *p.OOMScoreAdj
		p.OOMScoreAdj = &adj
	}
	p.Terminal = tty
	p.ConsoleSize = nil
	if tty && !slices.ContainsFunc(p.Env, func(kv string) bool { return strings.HasPrefix(kv, "TERM=") }) {
		p.Env = append(p.Env, "TERM=xterm")
	}
	return &p, nil
}
