package main

import (
	"bytes"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

func TestBadFile(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		text string
		want []string // all of them in the error
	}{
		"unknown key":         {"root = \"/r\"\nrot = \"/x\"\n", []string{":2: ", `unknown key "rot"`}},
		"spelling":            {"\n\ncgroup-driver = \"auto\"\n", []string{":3: ", `did you mean "cgroup_driver"`}},
		"case":                {"LogLevel = \"info\"\n", []string{":1: ", `did you mean "log_level"`}},
		"unknown table":       {"root = \"/r\"\n\n[plugins.x]\na = 1\n", []string{":3: ", `unknown key "plugins"`}},
		"wrong type":          {"builtin_network = \"yes\"\n", []string{":1: ", "builtin_network: want true or false"}},
		"number for a string": {"root = 3\n", []string{":1: ", "root: want a string"}},
		"string for a number": {"# x\npids_limit = \"3\"\n", []string{":2: ", "pids_limit: want a number"}},
		"bad word":            {"cgroup_driver = \"systemctl\"\n", []string{":1: ", "cgroup_driver", "auto, cgroupfs, systemd"}},
		"relative path":       {"state = \"run\"\n", []string{":1: ", "state", "absolute path"}},
		"relative in list":    {"cni_bin_dir = \"/a:b\"\n", []string{":1: ", "cni_bin_dir", `"b"`}},
		"tcp socket":          {"listen = \"tcp://1.2.3.4:5\"\n", []string{":1: ", "listen", "unix:///"}},
		"bare path":           {"listen = \"/run/x.sock\"\n", []string{":1: ", "listen", "unix:///"}},
		"open address":        {"stream_address = \"0.0.0.0:1\"\n", []string{":1: ", "stream_address", "one address"}},
		"out of range":        {"log_line_max = 1\n", []string{":1: ", "log_line_max", "128"}},
		"syntax":              {"root = \"/r\"\nstate = \n", []string{":2: "}},
		"twice":               {"root = \"/r\"\nroot = \"/s\"\n", []string{":2: "}},
		"handlers no table":   {"handlers = 1\n", []string{":1: ", "handlers"}},
		"handler no path":     {"\n[handlers.runc]\n", []string{":2: ", "handlers.runc: path"}},
		"handler bad key":     {"[handlers.runc]\npath = \"/runc\"\nbinary = \"x\"\n", []string{":3: ", "handlers.runc", `"binary"`}},
		"handler bad args":    {"[handlers.runc]\npath = \"/runc\"\nargs = [1]\n", []string{":3: ", "args"}},
		"handler bad root":    {"[handlers.runc]\npath = \"/runc\"\nroot = \"x\"\n", []string{":3: ", "root"}},
		"handler bad bool":    {"[handlers.runc]\npath = \"/runc\"\nprivileged_without_host_devices = \"yes\"\n", []string{":3: ", "true or false"}},
		"handler annotation":  {"[handlers.runc]\npath = \"/runc\"\npod_annotations = [\"a.io/*x*\"]\n", []string{":3: ", "pod_annotations"}},
		"handler all":         {"[handlers.runc]\npath = \"/runc\"\npod_annotations = [\"*\"]\n", []string{":3: ", "pod_annotations"}},
		"handler native":      {"[handlers.berth]\npath = \"/runc\"\n", []string{":1: ", "handlers.berth"}},
		"handler bad name":    {"[handlers.\"a/b\"]\npath = \"/runc\"\n", []string{":1: ", "a/b"}},
	} {
		c2 := defaults()
		err := c2.parse(c2.options(), "F", []byte(c.text))
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		if !strings.HasPrefix(err.Error(), "F:") {
			t.Errorf("%s: %v", name, err)
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: no %q in %q", name, w, err)
			}
		}
	}
}

func TestBadFlags(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ args, want string }{
		{"--nope", "nope"},
		{"--cgroup-driver x", "cgroup-driver"},
		{"--root rel", "absolute"},
		{"--root /a --state /a", "both /a"},
		{"--listen /x", "unix:///"},
		{"--config /nonexistent/x.toml", "/nonexistent/x.toml"},
		{"extra", "extra"},
		{"--stream-address 10.0.0.1:1", "TLS is off"},
		{"--stream-tls --stream-cert /c", "both or neither"},
		{"--stream-cert /c --stream-key /k", "without stream_tls"},
		{"--stream-max-sessions 0", "from 1"},
		{"--builtin-network=perhaps", "builtin-network"},
	} {
		if _, err := load(io.Discard, "serve", strings.Fields(c.args)); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", c.args, err)
		}
	}
}

func TestFlagsWin(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "c.toml")
	text := "root = \"/file/root\"\nlog_level = \"debug\"\nbuiltin_network = true\npids_limit = 7\n" +
		"[handlers.\"runc.v1\"]\npath = \"/usr/sbin/runc\"\nargs = [\"--debug\", \"a\\\"b\"]\n[handlers.crun]\npath = \"/usr/bin/crun\"\n" +
		"root = \"/r\"\nprivileged_without_host_devices = true\npod_annotations = [\"a.io/*\"]\ncontainer_annotations = [\"b.io/c\"]\n"
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := load(io.Discard, "serve", []string{"--config", file, "--root=/flag/root", "--builtin-network=false", "--state", "/s"})
	if err != nil {
		t.Fatal(err)
	}
	if c.Root != "/flag/root" || c.LogLevel != "debug" || c.BuiltinNetwork || c.PidsLimit != 7 || c.Listen != "unix:///s/berth.sock" || c.CNIConfDir != "/etc/cni/net.d" {
		t.Errorf("%+v", c)
	}
	want := []handler{
		{Name: "crun", Path: "/usr/bin/crun", Root: "/r", PrivilegedWithoutHostDevices: true, PodAnnotations: []string{"a.io/*"}, ContainerAnnotations: []string{"b.io/c"}},
		{Name: "runc.v1", Path: "/usr/sbin/runc", Args: []string{"--debug", "a\"b"}},
	}
	if !reflect.DeepEqual(c.Handlers, want) {
		t.Errorf("handlers %+v", c.Handlers)
	}
	// What config prints is a file that means the same.
	var out bytes.Buffer
	c.print(&out)
	again := defaults()
	if err := again.parse(again.options(), "printed", out.Bytes()); err != nil {
		t.Fatalf("%v\n%s", err, out.String())
	}
	again.Handlers[0].Args = nil // printed as an empty list
	if !reflect.DeepEqual(again, c) {
		t.Errorf("printed and read again:\n%+v\n%+v", again, c)
	}
}

// TestOptions checks that every option has a help text, appears in the help, and can be set both ways.
func TestOptions(t *testing.T) {
	t.Parallel()
	help := flagHelp()
	c := defaults()
	for _, o := range c.options() {
		if o.help == "" || !strings.Contains(help, "--"+o.flag()) {
			t.Errorf("%s has no help", o.key)
		}
		if err := o.set(strings.Trim(o.text(), `"`)); err != nil && o.text() != `""` {
			t.Errorf("%s: its own default is refused: %v", o.key, err)
		}
	}
}

func TestSemver(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{"v1.2.3": "1.2.3", "0.1.0-rc1": "0.1.0-rc1", "dev": "0.0.0+dev", "88954d4-dirty": "0.0.0+88954d4-dirty", "": "0.0.0", "v1.2.3-4-gabc": "1.2.3-4-gabc"} {
		if got := semver(in); got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
