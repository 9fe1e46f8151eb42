package resctrl

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// fake makes a directory that looks like the file system, for kernels and processors without it: groups made in it get
// their files as the kernel would give them.
func fake(t *testing.T) string {
	t.Helper()
	root := t.TempDir()
	group(t, root)
	return root
}

func group(t *testing.T, dir string) {
	t.Helper()
	os.MkdirAll(dir+"/mon_groups", 0o755)
	for name, text := range map[string]string{"tasks": "", "schemata": "    L3:0=fff;1=fff\n    MB:0=100;1=100\n"} {
		if err := os.WriteFile(dir+"/"+name, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func read(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func create(t *testing.T, root string, c *specs.LinuxIntelRdt) (*Plan, error) {
	t.Helper()
	p, err := Decide(root, "ctr", c)
	if err != nil {
		return nil, err
	}
	p.mkdir = func(name string) error { group(t, name); return nil }
	return p, p.Create()
}

// Without closID the group is the container's own: made, written to, and removed with it.
func TestOwnGroup(t *testing.T) {
	t.Parallel()
	root := fake(t)
	p, err := create(t, root, &specs.LinuxIntelRdt{L3CacheSchema: "L3:0=f", MemBwSchema: "MB:0=20", Schemata: []string{"L2:0=3"}, EnableMonitoring: true})
	if err != nil {
		t.Fatal(err)
	}
	if got := read(t, root+"/ctr/schemata"); !strings.HasPrefix(got, "L3:0=f\nMB:0=20\nL2:0=3\n") {
		t.Errorf("schemata %q", got)
	}
	if err := Enter(p.Tasks, 77); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{"/ctr/tasks", "/ctr/mon_groups/ctr/tasks"} {
		if got := read(t, root+f); got != "77" {
			t.Errorf("%s: %q", f, got)
		}
	}
	if got := strings.Join(p.Remove, " "); got != root+"/ctr "+root+"/ctr/mon_groups/ctr" {
		t.Errorf("to remove: %s", got)
	}
	if _, err := Decide(root, "ctr", &specs.LinuxIntelRdt{}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a group of the id that is there: %v", err)
	}
}

// A class of service that is there is joined and never removed; its shares must be the ones asked for.
func TestSharedGroup(t *testing.T) {
	t.Parallel()
	root := fake(t)
	group(t, root+"/gold")
	for want, c := range map[string]*specs.LinuxIntelRdt{
		"":            {ClosID: "gold"},
		" ":           {ClosID: "gold", L3CacheSchema: "L3:1=0FFF", MemBwSchema: "MB: 0 = 100"},
		"L3:0=fff":    {ClosID: "gold", L3CacheSchema: "L3:0=f"},
		"closID none": {ClosID: "none"},
		`closID ".."`: {ClosID: ".."},
		"memBwSchema": {ClosID: "gold", MemBwSchema: "L3:0=f"},
		"schema":      {ClosID: "gold", Schemata: []string{"L3:0=f\nMB:0=10"}},
	} {
		p, err := create(t, root, c)
		if strings.TrimSpace(want) == "" {
			if err != nil || len(p.Remove) != 0 || len(p.Make) != 0 {
				t.Errorf("%+v: %v, %+v", c, err, p)
			}
		} else if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%+v: %v, want %s", c, err, want)
		}
	}
	p, err := create(t, root, &specs.LinuxIntelRdt{ClosID: "new", L3CacheSchema: "L3:0=f", EnableMonitoring: true})
	if err != nil || strings.Join(p.Remove, " ") != root+"/new/mon_groups/ctr" {
		t.Errorf("%v, to remove: %v", err, p)
	}
	if p, err := create(t, root, &specs.LinuxIntelRdt{ClosID: "/"}); err != nil || p.Tasks[0] != root+"/tasks" {
		t.Errorf("%v %+v", err, p)
	}
}

func TestRemove(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	dirs := []string{root + "/a", root + "/a/b", root + "/a/c"}
	os.MkdirAll(dirs[1], 0o755)
	if err := Remove(dirs); err != nil {
		t.Error(err)
	}
	if left, _ := os.ReadDir(root); len(left) != 0 {
		t.Error(left)
	}
}
