package quick_test

import (
	"os"
	"os/exec"
	"reflect"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/launch/hook"
	"github.com/berth-runtime/berth/oci/launch/quick"
	"github.com/berth-runtime/berth/oci/launch/state"
)

// Nothing that runs before the runtime may allocate; Said runs after it, and of package spawn only what is in one file is
// called.
func TestNoAllocation(t *testing.T) {
	for _, dir := range [...]string{".", "../become", "../spawn"} {
		cmd := exec.Command("go", "build", "-gcflags=-m", ".")
		cmd.Dir, cmd.Env = dir, append(os.Environ(), "CGO_ENABLED=0", "GOARCH=amd64")
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		said := false
		for line := range strings.Lines(string(out)) {
			if dir == "../spawn" && !strings.Contains(line, "bare_spawn_linux.go:") {
				continue
			}
			said = said || strings.Contains(line, "does not escape")
			bad := strings.Contains(line, "escapes to heap") || strings.Contains(line, "moved to heap")
			if bad && !strings.Contains(line, "string(r.text[:r.size])") {
				t.Error(line)
			}
		}
		if !said {
			t.Errorf("the compiler said nothing about escapes in %s:\n%s", dir, out)
		}
	}
}

// written is the text of a record as package state writes it.
func written(t *testing.T, s *state.State) string {
	t.Helper()
	d, err := state.Create(t.TempDir(), "x")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if err := d.Write(s); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(d.Path + "/state.json")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func whole() *state.State {
	return &state.State{ID: "x", Version: "1.2.0", Pid: 4711, StartTime: 99, Boot: "b0dec81a", Bundle: "/b", Rootfs: "/r\\", Cgroup: "/a/b",
		Early: &state.Early{Dirs: []string{"/sys/fs/cgroup/cpu/a/b", "/sys/fs/cgroup/unified/a/b"}, Freezer: "/f", Unified: "/u"}, Created: time.Unix(1, 0), Owner: "root",
		Annotations: map[string]string{"early": `"early":{"start":true,"delete":true`}}
}

func TestRecord(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("nothing is done early on this machine")
	}
	dirs := `"/sys/fs/cgroup/cpu/a/b","/sys/fs/cgroup/unified/a/b"`
	want := func(start, remove, exec bool, bundle, filter string) quick.Record {
		return quick.Record{Pid: 4711, Boot: "b0dec81a", Dirs: dirs, Start: start, Delete: remove, Exec: exec, Bundle: bundle, Filter: filter, Freezer: "/f", Unified: "/u"}
	}
	for name, c := range map[string]struct {
		change func(*state.State)
		want   quick.Record
		ok     bool
	}{
		"plain":     {func(*state.State) {}, want(true, true, true, "/b", ""), true},
		"filter":    {func(s *state.State) { s.Seccomp, s.Filter = true, "/c" }, want(true, true, true, "/b", "/c"), true},
		"notify":    {func(s *state.State) { s.Seccomp = true }, want(true, true, false, "/b", ""), true},
		"adopted":   {func(s *state.State) { s.Adopted = true }, want(true, true, false, "/b", ""), true},
		"bundle":    {func(s *state.State) { s.Bundle = `/b"<&>` }, want(true, true, false, "", ""), true},
		"poststart": {func(s *state.State) { s.Poststart = []hook.Hook{{Path: "/x"}} }, want(false, true, true, "/b", ""), true},
		"poststop":  {func(s *state.State) { s.Poststop = []hook.Hook{{Path: "/x"}} }, want(true, false, true, "/b", ""), true},
		"systemd":   {func(s *state.State) { s.Systemd = true }, want(true, false, true, "/b", ""), true},
		"resctrl": {func(s *state.State) {
			s.Groups, s.Tasks = []string{"/sys/fs/resctrl/x"}, []string{"/sys/fs/resctrl/x/tasks"}
		},
			want(true, false, false, "/b", ""), true},
		"creating":  {func(s *state.State) { s.Early = nil }, quick.Record{}, false},
		"no cgroup": {func(s *state.State) { s.Early.Dirs = []string{} }, quick.Record{}, false},
		"escape":    {func(s *state.State) { s.Early.Dirs[1] = `/a"b` }, quick.Record{}, false},
	} {
		s := whole()
		c.change(s)
		text := written(t, s)
		got, ok := quick.Parse(text)
		if ok != c.ok || ok && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: %+v %v, want %+v %v\n%s", name, got, ok, c.want, c.ok, text)
		}
		for n := range len(text) { // as if the file ended there
			if _, ok := quick.Parse(text[:n]); ok && text[n-1] != '}' {
				t.Fatalf("%s: a record of %d bytes of %d is taken: %s", name, n, len(text), text[:n])
			}
		}
	}
}

func FuzzRecord(f *testing.F) {
	f.Add(`{"id":"x","ociVersion":"1.0.2","pid":1,"startTime":2,"boot":"b","bundle":"/b","rootfs":"/r","cgroup":"/a","early":{"start":true,"delete":true,"dirs":["/a","/b"],"exec":true,"filter":"","freezer":"/f","unified":""}}`)
	f.Add(`{"id":"\"`)
	f.Fuzz(func(t *testing.T, s string) {
		if r, ok := quick.Parse(s); ok && (r.Pid < 0 || strings.Contains(r.Dirs, `\`)) {
			t.Errorf("%+v of %q", r, s)
		}
	})
}
