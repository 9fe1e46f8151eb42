package oci_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/oci/launch/state"
	"github.com/berth-runtime/berth/test/bundle"
)

func TestArgv(t *testing.T) {
	t.Parallel()
	h := oci.Handler{Name: "x", Path: "/bin/x", Root: "/r", SystemdCgroup: true, Args: []string{"--debug"}}
	for _, c := range []struct {
		got  []string
		want string
	}{
		{h.CreateArgv("id", "/b", "/p", ""), "/bin/x --root /r --systemd-cgroup --debug create --bundle /b --pid-file /p id"},
		{h.CreateArgv("id", "/b", "/p", "s"), "/bin/x --root /r --systemd-cgroup --debug create --bundle /b --pid-file /p --console-socket s id"},
		{oci.Handler{Path: "y"}.ExecArgv(oci.ExecArgs{ID: "id", Process: "/proc/self/fd/3", PidFile: "/p"}),
			"y exec --detach --process /proc/self/fd/3 --pid-file /p id"},
		{oci.Handler{Path: "y"}.ExecArgv(oci.ExecArgs{ID: "id", Process: "j", PidFile: "/p", ConsoleSocket: "s", Cgroup: "freezer:a"}),
			"y exec --detach --process j --pid-file /p --console-socket s --cgroup freezer:a id"},
	} {
		if !reflect.DeepEqual(c.got, strings.Fields(c.want)) {
			t.Errorf("%v, want %s", c.got, c.want)
		}
	}
}

// program writes a shell script that stands for a runtime.
func program(t *testing.T, body string) oci.Handler {
	t.Helper()
	name := t.TempDir() + "/runtime"
	if err := bundle.Executable(name, "#!/bin/sh\n"+body); err != nil {
		t.Fatal(err)
	}
	return oci.Handler{Name: "fake", Path: name}
}

func TestForeign(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	log := t.TempDir() + "/log"
	h := program(t, `echo "$@" >> `+log+`
case $1 in
update) cat >> `+log+` ;;
features) echo '{"ociVersionMax":"1.3.0"}' ;;
state) echo "container does not exist" >&2; exit 1 ;;
start) echo first >&2; echo "last line" >&2; exit 4 ;;
delete) echo "container does not exist" >&2; exit 1 ;;
esac`)
	if err := h.Start(ctx, "a"); err == nil || !strings.Contains(err.Error(), "fake start: exit status 4: last line") {
		t.Errorf("start: %v", err)
	}
	if err := h.Delete(ctx, "a"); err != nil {
		t.Errorf("delete of what is gone: %v", err)
	}
	if _, err := h.State(ctx, "a"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("state: %v", err)
	}
	if f, err := h.Features(ctx); err != nil || f.OCIVersionMax != "1.3.0" {
		t.Errorf("features: %+v %v", f, err)
	}
	limit := int64(5)
	if err := h.Update(ctx, "a", &specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &limit}}); err != nil {
		t.Error(err)
	}
	if err := h.Kill(ctx, "a", 9, true); err != nil {
		t.Error(err)
	}
	text, _ := os.ReadFile(log)
	want := "start a\ndelete --force a\nstate a\nfeatures\nupdate --resources - a\n{\"pids\":{\"limit\":5}}kill --all a 9\n"
	if string(text) != want {
		t.Errorf("%q, want %q", text, want)
	}
}

func TestForeignDeadline(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := program(t, "exec sleep 60").Start(ctx, "a"); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("%v", err)
	}
}

// The native runtime is started without a program: a byte over the socket, and the answer.
func TestNativeStart(t *testing.T) {
	t.Parallel()
	for name, answer := range map[string]string{"ok": "", "no": "exec /x: no such file or directory"} {
		root := t.TempDir()
		d, err := state.Create(root, "id")
		if err != nil {
			t.Fatal(err)
		}
		l, err := d.Listen()
		if err != nil {
			t.Fatal(err)
		}
		fd, served := int(l.Fd()), make(chan struct{})
		// ends after one connection
		go func() {
			defer close(served)
			conn, _, err := unix.Accept(fd)
			if err == nil {
				unix.Read(conn, make([]byte, 1))
				unix.Write(conn, []byte(answer))
				unix.Close(conn)
			}
		}()
		h := oci.Handler{Name: "n", Native: true, Root: root}
		err = h.Start(context.Background(), "id")
		if (err == nil) != (answer == "") || err != nil && !strings.HasSuffix(err.Error(), answer) {
			t.Errorf("%s: %v", name, err)
		}
		<-served
		l.Close()
		if err := h.Delete(context.Background(), "id"); err != nil {
			t.Error(err)
		}
		if err := h.Delete(context.Background(), "id"); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(root + "/id"); err == nil {
			t.Error("the directory is left")
		}
		if err := h.Start(context.Background(), "id"); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("start of nothing: %v", err)
		}
		d.Close()
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for _, id := range []string{"", ".", "..", "a/b", "a\n", "a\x00", strings.Repeat("a", 256), "ä"} {
		if err := state.CheckID(id); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", id, err)
		}
	}
	if err := state.CheckID(strings.Repeat("0a", 32)); err != nil {
		t.Error(err)
	}
}

func TestDiscover(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	for name, c := range map[string]struct {
		body string
		want oci.Abilities
		err  bool
	}{
		"all": {`echo '{"ociVersionMax":"1.3.0","mountOptions":["ro","rro"],"annotations":{"org.opencontainers.runc.version":"1.5"},
"linux":{"namespaces":["user","mount","pid","network","ipc","uts"],"mountExtensions":{"idmap":{"enabled":true}}}}'`,
			oci.Abilities{Known: true, Version: "1.3.0", RecursiveReadOnly: true, UserNamespaces: true, ExecCgroup: true, ExecController: true}, false},
		"no idmap": {`echo '{"linux":{"namespaces":["user","mount","pid","network","ipc","uts"]}}'`, oci.Abilities{Known: true}, false},
		"bare":     {`echo '{}'`, oci.Abilities{Known: true}, false},
		"old":      {`case $1 in --version) echo 1.0 ;; *) exit 1 ;; esac`, oci.Abilities{}, false},
		"broken":   {`exit 1`, oci.Abilities{}, true},
		"nonsense": {`echo hello`, oci.Abilities{}, true},
		"no pid":   {`echo '{"linux":{"namespaces":["mount"]}}'`, oci.Abilities{Known: true}, true},
	} {
		h := program(t, c.body).Discover(ctx)
		if h.Able != c.want || (h.Err != nil) != c.err || (h.Usable() != nil) != c.err {
			t.Errorf("%s: %+v, %v", name, h.Able, h.Err)
		}
	}
	h := oci.Handler{Name: "x", Path: "/no/such/runtime"}.Discover(ctx)
	if !errors.Is(h.Usable(), fs.ErrInvalid) || !errors.Is(h.Err, fs.ErrNotExist) {
		t.Errorf("no program: %v", h.Usable())
	}
}

func TestAnnotations(t *testing.T) {
	t.Parallel()
	h := oci.Handler{PodAnnotations: []string{"a/*", "b"}, ContainerAnnotations: []string{"a/c"}}
	got := h.AnnotationsFor(map[string]string{"a/1": "p", "a/c": "p", "ax": "p", "b": "p", "b/x": "p", "bb": "p"}, map[string]string{"a/c": "c", "a/1": "c", "b": "c"})
	if want := map[string]string{"a/1": "p", "a/c": "c", "b": "p"}; !reflect.DeepEqual(got, want) {
		t.Errorf("%v", got)
	}
	if got := (oci.Handler{}).AnnotationsFor(map[string]string{"a": ""}, nil); got != nil {
		t.Errorf("without a list: %v", got)
	}
}

func TestSaid(t *testing.T) {
	t.Parallel()
	for line, want := range map[string]string{
		`exit status 1: time="2026-01-01T00:00:00Z" level=error msg="runc create failed: \"x\": no"`: `exit status 1: runc create failed: "x": no`,
		"plain":                      "plain",
		`time=x level=error msg=one`: "one",
	} {
		if got := oci.Said(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}
