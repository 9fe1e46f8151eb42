// Package stream proves exec, attach and port-forward as kubelet's and kubectl's own clients use them, over SPDY and
// over WebSocket, and by clients that misbehave.
package stream

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/util/exec"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// bulk is how much goes through one stream; the full measure is -bulk 1024.
var bulk = flag.Int64("bulk", 64, "MiB through one stream")

func TestMain(m *testing.M) { os.Exit(harness.Main(m)) }

// protocols are the ways current clients choose from.
var protocols = []string{"spdy", "websocket"}

// executor is client-go's for a URL.
func executor(t *testing.T, protocol, address string, tls rest.TLSClientConfig) remotecommand.Executor {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	conf := &rest.Config{Host: u.Scheme + "://" + u.Host, TLSClientConfig: tls}
	var e remotecommand.Executor
	if protocol == "spdy" {
		e, err = remotecommand.NewSPDYExecutor(conf, "POST", u)
	} else {
		e, err = remotecommand.NewWebSocketExecutor(conf, "GET", address)
	}
	if err != nil {
		t.Fatal(err)
	}
	return e
}

// session is an exec or, without a command, an attach, with its client.
type session struct {
	node     *harness.Node
	id       string
	cmd      []string
	protocol string
	in       io.Reader
	out, err io.Writer
	sizes    remotecommand.TerminalSizeQueue // with a terminal
	tls      rest.TLSClientConfig
}

// url asks the daemon for the session's address.
func (s session) url(t *testing.T) string {
	t.Helper()
	tty := s.sizes != nil
	if s.cmd == nil {
		r, err := s.node.Runtime.Attach(t.Context(), &rt.AttachRequest{ContainerId: s.id, Stdin: s.in != nil, Stdout: s.out != nil, Stderr: s.err != nil, Tty: tty})
		if err != nil {
			t.Fatalf("Attach: %v", err)
		}
		return r.Url
	}
	r, err := s.node.Runtime.Exec(t.Context(), &rt.ExecRequest{ContainerId: s.id, Cmd: s.cmd, Stdin: s.in != nil, Stdout: s.out != nil, Stderr: s.err != nil, Tty: tty})
	if err != nil {
		t.Fatalf("Exec: %v", err)
	}
	return r.Url
}

// run runs the session to its end.
func (s session) run(ctx context.Context, t *testing.T) error {
	t.Helper()
	return executor(t, s.protocol, s.url(t), s.tls).StreamWithContext(ctx, remotecommand.StreamOptions{
		Stdin: s.in, Stdout: s.out, Stderr: s.err, Tty: s.sizes != nil, TerminalSizeQueue: s.sizes})
}

// code is the exit code a client was told; -1 for another error.
func code(err error) int {
	var e exec.CodeExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &e):
		return e.Code
	}
	return -1
}

// footprint is what sessions may leave in the daemon and a pod's monitor.
type footprint struct{ goroutines, daemonFDs, monitorFDs, processes int }

// base takes the footprint, and makes the end of the test wait until it is reached again.
func base(t *testing.T, n *harness.Node, pod string) {
	t.Helper()
	if n.Root == "" {
		return // foreign
	}
	monitor := monitorOf(t, pod)
	take := func() footprint {
		return footprint{n.Goroutines(t), descriptors(t, n.Pid(), "anon_inode:"), descriptors(t, monitor, "anon_inode:", "/sys/fs/cgroup/"), children(t, monitor)}
	}
	before := take()
	t.Cleanup(func() {
		for end := time.Now().Add(harness.Patience); ; time.Sleep(100 * time.Millisecond) {
			now := take()
			switch {
			case now.goroutines <= before.goroutines && now.daemonFDs <= before.daemonFDs && now.monitorFDs <= before.monitorFDs && now.processes <= before.processes:
				t.Logf("before %+v, after %+v", before, now)
				return
			case time.Now().After(end) || t.Failed():
				t.Errorf("held %+v before, and %+v afterwards", before, now)
				return
			}
		}
	})
}

var monitorArg = regexp.MustCompile(`^berth-monitor\x00--`)

func monitorOf(t *testing.T, pod string) int {
	t.Helper()
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, f := range lines {
		if b, _ := os.ReadFile(f); monitorArg.Match(b) && strings.Contains(string(b), pod) {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(f)))
			return pid
		}
	}
	t.Fatalf("no monitor of pod %s", pod)
	return 0
}

// descriptors counts those of a process, except what the Go runtime opens for itself when it comes to need it.
func descriptors(t *testing.T, pid int, except ...string) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(slices.DeleteFunc(entries, func(e os.DirEntry) bool {
		to, err := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		return err != nil || slices.ContainsFunc(except, func(prefix string) bool { return strings.HasPrefix(to, prefix) })
	}))
}

func children(t *testing.T, pid int) int {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", pid, pid))
	if err != nil {
		t.Fatal(err)
	}
	return len(strings.Fields(string(b)))
}

// runs tells whether a process of the container has the word in its command line.
func runs(t *testing.T, n *harness.Node, id, word string) bool {
	t.Helper()
	// The brackets keep the looking from finding itself.
	pattern := "[" + word[:1] + "]" + word[1:]
	out := n.Exec(t, id, "sh", "-c", "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c '"+pattern+"' || true")
	return strings.TrimSpace(out) != "0"
}

// reset makes the close of a connection send RST, as a client does that crashes with unread input.
func reset(c net.Conn) {
	if t, ok := c.(*net.TCPConn); ok {
		t.SetLinger(0)
	}
}

// pipesOf counts the pipes that a process only writes to: in a monitor those to attached clients, among them.
func pipesOf(t *testing.T, pid int) int {
	t.Helper()
	count := 0
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		to, _ := os.Readlink(fmt.Sprintf("/proc/%d/fd/%s", pid, e.Name()))
		info, _ := os.ReadFile(fmt.Sprintf("/proc/%d/fdinfo/%s", pid, e.Name()))
		if strings.HasPrefix(to, "pipe:") && writeOnly.Match(info) {
			count++
		}
	}
	return count
}

// writeOnly finds O_WRONLY in the octal flags of proc_pid_fdinfo(5).
var writeOnly = regexp.MustCompile(`flags:\s+0[0-7]*1\n`)
