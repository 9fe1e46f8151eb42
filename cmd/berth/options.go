package main

import (
	"flag"
	"fmt"
	"io/fs"
	"net/url"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/berth-runtime/berth/cri/stream"
)

// defaultConfig is read when it exists; a file named by --config has to.
const defaultConfig = "/etc/berth/config.toml"

// config is what the daemon is told. Empty strings mean what options says.
type config struct {
	Root, State, Listen     string
	CgroupDriver            string
	CNIConfDir, CNIBinDir   string
	CDISpecDirs             string
	BuiltinNetwork          bool
	RegistryConfig          string
	PinnedImages            string
	LogLevel                string
	Stream                  streaming
	PidsLimit, LogLineMax   int64
	MonitorBin, OCIBin, Bin string // Bin is berth-bridge
	Handlers                []handler
}

// streaming is about exec, attach and port-forward. Times are in seconds.
type streaming struct {
	Address, Cert, Key        string
	TLS                       bool
	Idle, Creation, Handshake int64
	MaxRequests, MaxSessions  int64
}

// option is one setting: a flag and a key of the configuration file. This table is the only place that knows them:
// flags, file, help and "berth config" are made from it.
type option struct {
	key   string // in the file; the flag has "-" for "_"
	arg   string // what the help shows for the value
	help  string
	value any // *string, *bool or *int64, pointing into a config
	check func(string) error
}

func (o option) flag() string { return strings.ReplaceAll(o.key, "_", "-") }

// defaults is the configuration of a daemon that is told nothing.
func defaults() *config {
	return &config{
		Root: "/var/lib/berth", State: "/run/berth", CgroupDriver: "auto",
		CNIConfDir: "/etc/cni/net.d", CNIBinDir: "/opt/cni/bin", RegistryConfig: "/etc/berth/certs.d",
		LogLevel: "info", LogLineMax: 16384,
		CDISpecDirs: "/etc/cdi:/var/run/cdi",
		Stream:      streaming{Address: "127.0.0.1:0", Idle: 4 * 60 * 60, Creation: 30, Handshake: 10, MaxRequests: 1000, MaxSessions: 1000},
	}
}

// options returns the table over c.
func (c *config) options() []option {
	return []option{
		{"root", "DIR", "what survives a reboot: images, layers, pods' records and files", &c.Root, absolute},
		{"state", "DIR", "what does not: sockets, locks, pinned namespaces", &c.State, absolute},
		{"listen", "unix://PATH", "the CRI socket; by default berth.sock in the state directory", &c.Listen, socket},
		{"cgroup_driver", "NAME", "auto, cgroupfs or systemd; auto is systemd where systemd runs and cgroup v2 is used", &c.CgroupDriver, oneOf("auto", "cgroupfs", "systemd")},
		{"cni_conf_dir", "DIR", "network configurations; the first by name is used", &c.CNIConfDir, absolute},
		{"cni_bin_dir", "DIRS", "CNI plugins; several directories are separated by colons", &c.CNIBinDir, absolutes},
		{"builtin_network", "", "use the built-in bridge network while the directory of configurations has none", &c.BuiltinNetwork, nil},
		{"cdi_spec_dirs", "DIRS", "descriptions of CDI devices; of two that name one device the one in the later directory counts", &c.CDISpecDirs, absolutes},
		{"registry_config", "DIR", "registry hosts and mirrors, HOST/hosts.toml for each", &c.RegistryConfig, absolute},
		{"pinned_images", "GLOBS", "images that are reported as pinned, so that kubelet keeps them; globs over full names, separated by commas", &c.PinnedImages, globs},
		{"log_level", "LEVEL", "debug, info, warn or error; debug has a line for each request, info leaves out reads and ExecSync that succeed", &c.LogLevel, oneOf("debug", "info", "warn", "error")},
		{"stream_address", "ADDR", "address and port of exec, attach and port-forward; one that is not loopback needs stream_tls", &c.Stream.Address, streamAddress},
		{"stream_tls", "", "encrypt exec, attach and port-forward", &c.Stream.TLS, nil},
		{"stream_cert", "FILE", "certificate for that, PEM, read again when it changes; by default one is made", &c.Stream.Cert, optional(absolute)},
		{"stream_key", "FILE", "the certificate's key", &c.Stream.Key, optional(absolute)},
		{"stream_idle_timeout", "SECONDS", "after this without traffic a session ends", &c.Stream.Idle, between(1, maxSeconds)},
		{"stream_creation_timeout", "SECONDS", "within this a client that has connected opens its streams", &c.Stream.Creation, between(1, maxSeconds)},
		{"stream_handshake_timeout", "SECONDS", "within this a connection has its TLS handshake done, and its request sent", &c.Stream.Handshake, between(1, maxSeconds)},
		{"stream_max_requests", "N", "URLs that may be handed out and wait for their client", &c.Stream.MaxRequests, between(1, 1<<20)},
		{"stream_max_sessions", "N", "sessions of exec, attach and port-forward at a time", &c.Stream.MaxSessions, between(1, 1<<20)},
		{"pids_limit", "N", "processes and threads a container may have; 0 is no limit", &c.PidsLimit, between(0, 1<<22)},
		{"log_line_max", "BYTES", "content after which a container's log line is split", &c.LogLineMax, between(128, 1<<20)},
		{"monitor", "FILE", "berth-monitor; by default beside this program", &c.MonitorBin, absolute},
		{"oci", "FILE", "berth-oci; by default beside this program", &c.OCIBin, absolute},
		{"bridge", "FILE", "berth-bridge; by default beside this program", &c.Bin, absolute},
	}
}

// set parses text into the option's value.
func (o option) set(text string) error {
	if o.check != nil {
		if err := o.check(text); err != nil {
			return err
		}
	}
	switch v := o.value.(type) {
	case *string:
		*v = text
	case *bool:
		b, err := strconv.ParseBool(text)
		if err != nil {
			return fmt.Errorf("%q: %w: want true or false", text, fs.ErrInvalid)
		}
		*v = b
	case *int64:
		n, err := strconv.ParseInt(text, 10, 64)
		if err != nil {
			return fmt.Errorf("%q: %w: want a number", text, fs.ErrInvalid)
		}
		*v = n
	}
	return nil
}

// text is the value as TOML.
func (o option) text() string {
	switch v := o.value.(type) {
	case *string:
		return quoteTOML(*v)
	case *bool:
		return strconv.FormatBool(*v)
	case *int64:
		return strconv.FormatInt(*v, 10)
	}
	return ""
}

// flags makes the flag set. Values are only collected, because the file comes first; the returned map fills as the
// set parses.
func flags(name string, opts []option) (*flag.FlagSet, map[string]string, *string) {
	set := flag.NewFlagSet(name, flag.ContinueOnError)
	given := make(map[string]string)
	for _, o := range opts {
		keep := func(text string) error {
			if o.check != nil {
				if err := o.check(text); err != nil {
					return err
				}
			}
			given[o.key] = text
			return nil
		}
		if _, ok := o.value.(*bool); ok {
			set.BoolFunc(o.flag(), o.help, keep)
		} else {
			set.Func(o.flag(), o.help, keep)
		}
	}
	return set, given, set.String("config", defaultConfig, "configuration file, TOML")
}

// flagHelp is the text about flags and keys.
func flagHelp() string {
	var b strings.Builder
	b.WriteString("Flags of serve and config; each is also a key of the configuration file, with _ for -:\n\n")
	fmt.Fprintf(&b, "  %-30s %s (%s)\n", "--config FILE", "configuration file, TOML", defaultConfig)
	for _, o := range defaults().options() {
		def := strings.Trim(o.text(), `"`)
		if def == "" || def == "false" || def == "0" {
			def = ""
		} else {
			def = " (" + def + ")"
		}
		fmt.Fprintf(&b, "  %-30s %s%s\n", strings.TrimSpace("--"+o.flag()+" "+o.arg), o.help, def)
	}
	b.WriteString("\nOther OCI runtimes are named in the file only, [handlers.NAME] with these keys:\n\n")
	for _, o := range new(handler).options() {
		fmt.Fprintf(&b, "  %-32s %s\n", o.key, o.help)
	}
	return b.String()
}

// maxSeconds is a year: more can't be meant.
const maxSeconds = 365 * 24 * 60 * 60

// streamAddress checks what can be said without knowing whether there is encryption.
func streamAddress(s string) error { return stream.CheckAddr(s, true) }

// check refuses settings that contradict each other.
func (s streaming) check() error {
	if err := stream.CheckAddr(s.Address, s.TLS); err != nil {
		return fmt.Errorf("stream_address: %w", err)
	}
	switch {
	case (s.Cert == "") != (s.Key == ""):
		return fmt.Errorf("stream_cert and stream_key: %w: they belong together, give both or neither", fs.ErrInvalid)
	case s.Cert != "" && !s.TLS:
		return fmt.Errorf("stream_cert: %w: it has no effect without stream_tls", fs.ErrInvalid)
	}
	return nil
}

// options are those of the streaming server.
func (s streaming) options() stream.Options {
	seconds := func(n int64) time.Duration { return time.Duration(n) * time.Second }
	return stream.Options{
		Addr: s.Address, TLS: s.TLS, CertFile: s.Cert, KeyFile: s.Key,
		IdleTimeout: seconds(s.Idle), CreationTimeout: seconds(s.Creation), HandshakeTimeout: seconds(s.Handshake),
		MaxRequests: int(s.MaxRequests), MaxSessions: int(s.MaxSessions),
	}
}

// optional lets a setting be empty.
func optional(check func(string) error) func(string) error {
	return func(s string) error {
		if s == "" {
			return nil
		}
		return check(s)
	}
}

func absolute(s string) error {
	if !filepath.IsAbs(s) || strings.ContainsAny(s, "\x00\n") {
		return fmt.Errorf("%q: %w: want an absolute path", s, fs.ErrInvalid)
	}
	return nil
}

func absolutes(s string) error {
	for _, dir := range filepath.SplitList(s) {
		if err := absolute(dir); err != nil {
			return err
		}
	}
	if s == "" {
		return absolute(s)
	}
	return nil
}

// globs are patterns of path.Match.
func globs(s string) error {
	for _, g := range list(s) {
		if _, err := path.Match(g, ""); err != nil {
			return fmt.Errorf("%q: %w: %w", g, fs.ErrInvalid, err)
		}
	}
	return nil
}

// list takes a list apart that is separated by commas.
func list(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' })
}

func socket(s string) error {
	_, err := socketPath(s)
	return err
}

// socketPath takes the path out of unix:///path.
func socketPath(s string) (string, error) {
	u, err := url.Parse(s)
	if err != nil || u.Scheme != "unix" || u.Host != "" || !filepath.IsAbs(u.Path) || filepath.Clean(u.Path) != u.Path {
		return "", fmt.Errorf("%q: %w: want unix:///absolute/path", s, fs.ErrInvalid)
	}
	return u.Path, nil
}

func oneOf(words ...string) func(string) error {
	return func(s string) error {
		if !slices.Contains(words, s) {
			return fmt.Errorf("%q: %w: want one of %s", s, fs.ErrInvalid, strings.Join(words, ", "))
		}
		return nil
	}
}

func between(low, high int64) func(string) error {
	return func(s string) error {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil || n < low || n > high {
			return fmt.Errorf("%q: %w: want a number from %d to %d", s, fs.ErrInvalid, low, high)
		}
		return nil
	}
}
