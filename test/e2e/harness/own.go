package harness

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
)

// Setup is what a daemon of a test's own is given.
type Setup struct {
	Config  string            // config.toml
	CNI     map[string]string // files of its directory of network configurations; empty: it has no network
	Plugins map[string]string // network plugins of the test's own, shell scripts
	Hosts   map[string]string // hosts.toml by host, beside those of the test images
	Args    []string          // more arguments
	Path    string            // PATH, "": the test's own
}

// Own starts a daemon for one test, on directories of its own beside the package's, with no image and no built-in network. It
// is gone at the end of the test.
func Own(t *testing.T, s Setup) *Node {
	t.Helper()
	shared := Get(t)
	shared.Foreign(t)
	dir := filepath.Join(shared.Dir, "own-"+strconv.FormatInt(serial.Add(1), 10))
	n := &Node{top: shared.top, Dir: dir, Root: filepath.Join(dir, "root"), State: filepath.Join(dir, "state"), extra: s.Args, path: s.Path}
	n.Endpoint = "unix://" + filepath.Join(n.State, "berth.sock")
	write := func(name, text string, mode os.FileMode) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range []string{n.Root, n.State, n.CNI(), n.Plugins(), filepath.Join(dir, "certs.d")} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write("config.toml", s.Config, 0o644)
	for name, text := range s.CNI {
		write("cni/"+name, text, 0o644)
	}
	for name, text := range s.Plugins {
		write("plugins/"+name, text, 0o755)
	}
	hosts, err := filepath.Glob(filepath.Join(shared.Dir, "certs.d/*/hosts.toml"))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range hosts {
		b, err := os.ReadFile(h)
		if err != nil {
			t.Fatal(err)
		}
		write("certs.d/"+filepath.Base(filepath.Dir(h))+"/hosts.toml", string(b), 0o644)
	}
	for host, text := range s.Hosts {
		write("certs.d/"+host+"/hosts.toml", text, 0o644)
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("its own daemon's log:\n%s", tail(filepath.Join(dir, "daemon.log"), 40))
		}
		if n.daemon != nil && n.daemon.ProcessState == nil {
			if err := n.Kill(syscall.SIGTERM); err != nil {
				t.Error(err)
			}
		}
		hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*" + cgroupParent(dir))
		for _, h := range append(hierarchies, "/sys/fs/cgroup"+cgroupParent(dir)) {
			os.Remove(h)
		}
		os.RemoveAll(dir)
	})
	if err := n.Launch(); err != nil {
		t.Fatal(err)
	}
	return n
}

// Peer is a program that hack/peers.sh fetches for tests, "" where it was not.
func (n *Node) Peer(name string) string {
	p := filepath.Join(n.Cache(), "peers", name)
	if !exists(p) {
		return ""
	}
	return p
}

// CNI is the directory of network configurations of the daemon, Plugins the one of plugins of a test's own.
func (n *Node) CNI() string     { return filepath.Join(n.Dir, "cni") }
func (n *Node) Plugins() string { return filepath.Join(n.Dir, "plugins") }

// Recorder is a network plugin that connects nothing. Beside itself it leaves VERB.env and VERB.json, what it was told last,
// and a line in "calls" for each call; it answers ADD with the file "answer", and STATUS with an error while there is a file
// "unwell".
const Recorder = `#!/bin/sh
d=$(dirname "$0")
env | grep ^CNI_ | sort >"$d/$CNI_COMMAND.env"
cat >"$d/$CNI_COMMAND.json"
echo "$CNI_COMMAND $CNI_CONTAINERID" >>"$d/calls"
case $CNI_COMMAND in
VERSION) echo '{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}' ;;
ADD) sed "s|NETNS|$CNI_NETNS|" "$d/answer" ;;
STATUS) [ ! -e "$d/unwell" ] || { echo '{"cniVersion":"1.1.0","code":50,"msg":"the recorder is unwell"}'; exit 1; } ;;
esac
`

// Recording is the configuration of a network of the Recorder, with every capability.
const Recording = `{"cniVersion":"1.1.0","name":"recorded","plugins":[{"type":"recorder","capabilities":{"portMappings":true,"bandwidth":true,
"dns":true,"cgroupPath":true,"io.kubernetes.cri.pod-annotations":true,"ipRanges":true}}]}`

// Answer is what the Recorder answers to ADD: the addresses, each with its length.
func Answer(addrs ...string) string {
	var ips []string
	for _, a := range addrs {
		ips = append(ips, `{"address":"`+a+`","interface":0}`)
	}
	return `{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"NETNS"}],"ips":[` + strings.Join(ips, ",") + "]}\n"
}
