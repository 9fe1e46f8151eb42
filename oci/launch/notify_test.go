package launch_test

import (
	"encoding/json"
	"net"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle"
)

// agent listens where a runtime sends the notify descriptor of a filter to.
type agent struct {
	t *testing.T
	l *net.UnixListener
}

func newAgent(t *testing.T) *agent {
	t.Helper()
	return &agent{t, bundle.Listen(t)}
}

func (a *agent) path() string { return a.l.Addr().String() }

// accept receives one state with its descriptor, and sees that the connection ends after it.
func (a *agent) accept() (state specs.ContainerProcessState, notify int) {
	a.t.Helper()
	conn := bundle.Accept(a.t, a.l)
	defer conn.Close()
	text := ""
	for notify = -1; ; {
		part, fds := bundle.Receive(a.t, conn)
		if len(fds) > 1 || len(fds) == 1 && notify >= 0 {
			a.t.Fatalf("descriptors %v besides %d", fds, notify)
		}
		if len(fds) == 1 {
			notify = fds[0]
		}
		if part == "" {
			break
		}
		text += part
	}
	if err := json.Unmarshal([]byte(text), &state); err != nil || notify < 0 {
		a.t.Fatalf("%v, descriptor %d, %q", err, notify, text)
	}
	return state, notify
}

// serve has a program answer every call with an errno until the filter has no process any more.
func (a *agent) serve(notify int, errno unix.Errno) string {
	a.t.Helper()
	f := os.NewFile(uintptr(notify), "notify")
	defer f.Close()
	cmd := exec.Command(bin+"/probe", "agent", strconv.Itoa(int(errno)))
	cmd.ExtraFiles = []*os.File{f}
	out, err := cmd.Output()
	if err != nil {
		a.t.Error(err)
	}
	return string(out)
}

// A filter that notifies hands its descriptor, with the container's state, to the listener, who decides about calls: of
// the container's own process and of each exec.
func TestSeccompNotify(t *testing.T) {
	t.Parallel()
	needRoot(t)
	for _, nnp := range []bool{true, false} {
		a := newAgent(t)
		b := newBox(t, "personality")
		b.id += map[bool]string{true: "-nnp", false: ""}[nnp]
		b.spec.Linux.CgroupsPath = cgroups + "/" + b.id
		b.spec.Process.NoNewPrivileges = nnp
		b.spec.Annotations = map[string]string{"k": "v"}
		b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path(), ListenerMetadata: "some text",
			Flags:    []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagWaitKillableRecv},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActNotify}}}
		done := make(chan result, 1)
		go func() { done <- b.run() }()
		state, notify := a.accept()
		calls := a.serve(notify, unix.ENOMEDIUM)
		r := <-done
		if r.code != 0 || r.out != "0:123 8:123 4294967295:123\n" || calls != "3 calls\n" {
			t.Errorf("%d %q %q, %s", r.code, r.out, r.err, calls)
		}
		if state.Version != specs.Version || len(state.Fds) != 1 || state.Fds[0] != specs.SeccompFdName || state.Pid <= 1 || state.Metadata != "some text" ||
			state.State.ID != b.id || state.State.Status != specs.StateCreating || state.State.Pid != state.Pid || state.State.Bundle != b.bundle ||
			state.State.Annotations["k"] != "v" {
			t.Errorf("state %+v", state)
		}
	}
	a := newAgent(t)
	b := newBox(t, "sleep")
	b.id += "-exec"
	b.spec.Linux.CgroupsPath += "-exec"
	b.spec.Linux.Seccomp = &specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: a.path(),
		Syscalls: []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActNotify}}}
	b.create()
	started := make(chan result, 1)
	go func() { started <- b.oci("start", b.id) }()
	_, first := a.accept()
	defer unix.Close(first)
	if r := <-started; r.code != 0 {
		t.Fatal(r.err)
	}
	done := make(chan result, 1)
	go func() { done <- b.oci("exec", b.id, "/probe", "personality") }()
	_, second := a.accept()
	a.serve(second, unix.ENOMEDIUM)
	if r := <-done; r.code != 0 || !strings.HasPrefix(r.out, "0:123 ") {
		t.Errorf("exec: %d %q %q", r.code, r.out, r.err)
	}
}

// A listener that is not there is an error that names it, and a profile that notifies needs one.
func TestSeccompNotifyRefused(t *testing.T) {
	t.Parallel()
	for want, p := range map[string]*specs.LinuxSeccomp{
		"linux.seccomp.listenerPath": {ListenerPath: "/absent/socket"}, "SCMP_ACT_NOTIFY without listenerPath": {},
		"linux.seccomp.listenerMetadata": {ListenerMetadata: "x"},
	} {
		b := newBox(t, "sleep")
		p.DefaultAction = specs.ActAllow
		p.Syscalls = []specs.LinuxSyscall{{Names: []string{"personality"}, Action: specs.ActNotify}}
		b.spec.Linux.Seccomp = p
		b.config()
		if r := b.oci("create", "--bundle", b.bundle, b.id); r.code == 0 || !strings.Contains(r.err, want) {
			t.Errorf("%d %q, want %q", r.code, r.err, want)
		}
	}
}
