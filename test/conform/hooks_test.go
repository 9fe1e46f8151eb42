package conform_test

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hookLine is what the probe writes as a hook.
type hookLine struct {
	Name, Mnt, UTS, Pid, Net, Root, Error string
	State                                 map[string]any
	Env, Args                             []string
	Inside                                bool
}

// hooks gives the container two hooks of each kind that append to a file, and returns a reader of it. The file is bound
// into the container, so that hooks there reach it by the same name.
func (b *box) hooks() (log string, read func() []hookLine) {
	b.Helper()
	log = b.bundle + "/log"
	if err := os.WriteFile(log, nil, 0o666); err != nil {
		b.Fatal(err)
	}
	b.spec.Mounts = append(b.spec.Mounts, bind(log, log))
	two := func(kind string) []specs.Hook {
		return []specs.Hook{b.hook(kind, log, kind+"1"), b.hook(kind, log, kind+"2")}
	}
	//lint:ignore SA1019 Deprecated, but a runtime has to honour it.
	b.spec.Hooks = &specs.Hooks{Prestart: two("prestart"), CreateRuntime: two("createRuntime"), CreateContainer: two("createContainer"),
		StartContainer: two("startContainer"), Poststart: two("poststart"), Poststop: two("poststop")}
	return log, func() []hookLine {
		text, _ := os.ReadFile(log)
		var list []hookLine
		for _, line := range strings.Split(strings.TrimSpace(string(text)), "\n") {
			var l hookLine
			if line != "" && json.Unmarshal([]byte(line), &l) != nil {
				b.Errorf("%q", line)
			}
			if line != "" {
				list = append(list, l)
			}
		}
		return list
	}
}

func (b *box) hook(kind, log string, args ...string) specs.Hook {
	path := bin + "/probe"
	if kind == "startContainer" {
		path = "/probe"
	}
	return specs.Hook{Path: path, Args: append([]string{"first", "hook", log}, args...), Env: []string{"HOOK=" + kind}}
}

func names(list []hookLine) string {
	var n []string
	for _, l := range list {
		n = append(n, l.Name)
	}
	return strings.Join(n, " ")
}

// config.md, "POSIX-platform Hooks": order, where each kind runs, its arguments, environment and standard input.
func TestHooks(t *testing.T) {
	b := newBox(t, "wait")
	_, read := b.hooks()
	b.spec.Hooks.Poststart = nil
	const create = "prestart1 prestart2 createRuntime1 createRuntime2 createContainer1 createContainer2"
	b.hooksInOrder(read, create, create+" startContainer1 startContainer2")
}

// poststart hooks come after the program is executed, hence after startContainer's, and before start returns.
func TestPoststartHooks(t *testing.T) {
	b := newBox(t, "wait")
	_, read := b.hooks()
	b.spec.Hooks.StartContainer = b.spec.Hooks.StartContainer[:1]
	const create = "prestart1 prestart2 createRuntime1 createRuntime2 createContainer1 createContainer2"
	b.hooksInOrder(read, create, create+" startContainer1 poststart1 poststart2")
}

// hooksInOrder takes a container through its life.
func (b *box) hooksInOrder(read func() []hookLine, create, start string) {
	b.Helper()
	b.spec.Annotations = map[string]string{"a": "b"}
	b.created()
	equal(b.T, "hooks of create", names(read()), create)
	pid := b.pid()
	b.must("start", b.id)
	b.says("up")
	equal(b.T, "hooks of start", names(read()), start)
	theirs, _ := os.Readlink("/proc/" + itoa(pid) + "/ns/mnt")
	b.must("kill", b.id, "KILL")
	b.ended(pid)
	b.must("delete", b.id)
	all := read()
	equal(b.T, "hooks of all", names(all), start+" poststop1 poststop2")
	for _, h := range all {
		kind := strings.TrimRight(h.Name, "12")
		equal(b.T, h.Name+": environment", strings.Join(h.Env, " "), "HOOK="+kind)
		equal(b.T, h.Name+": argument 0", h.Args[0], "first")
		inside := kind == "createContainer" || kind == "startContainer"
		equal(b.T, h.Name+": is in the container's mount namespace", h.Mnt == theirs, inside)
		equal(b.T, h.Name+": sees the container's root", h.Inside, kind == "startContainer")
		b.hookState(h, kind, pid)
	}
}

// hookState checks the state on standard input (runtime.md, "State", and the statuses that "Lifecycle" implies).
func (b *box) hookState(h hookLine, kind string, pid int) {
	b.Helper()
	equal(b.T, h.Name+": id", h.State["id"], any(b.id))
	equal(b.T, h.Name+": bundle", h.State["bundle"], any(b.bundle))
	if v, _ := h.State["ociVersion"].(string); !strings.HasPrefix(v, "1.") {
		b.Errorf("%s: ociVersion %q", h.Name, v)
	}
	if n, _ := h.State["annotations"].(map[string]any); n["a"] != "b" {
		b.Errorf("%s: annotations %v", h.Name, n)
	}
	want := map[string]string{"prestart": "creating", "createRuntime": "creating", "createContainer": "creating",
		"startContainer": "created", "poststart": "running", "poststop": "stopped"}[kind]
	equal(b.T, h.Name+": status", h.State["status"], any(want))
	if kind == "prestart" || kind == "createRuntime" || kind == "poststart" {
		equal(b.T, h.Name+": pid", h.State["pid"], any(float64(pid)))
	}
}

// runtime.md, "Lifecycle", steps 3 to 5: a hook that fails makes create fail, no later one runs, nothing is left.
func TestCreateHookFails(t *testing.T) {
	for _, kind := range []string{"prestart", "createRuntime", "createContainer"} {
		t.Run(kind, func(t *testing.T) {
			b := newBox(t, "wait")
			log, read := b.hooks()
			h := []specs.Hook{b.hook(kind, log, kind, "3"), b.hook(kind, log, "late")}
			//lint:ignore SA1019 Deprecated, but a runtime has to honour it.
			*map[string]*[]specs.Hook{"prestart": &b.spec.Hooks.Prestart, "createRuntime": &b.spec.Hooks.CreateRuntime,
				"createContainer": &b.spec.Hooks.CreateContainer}[kind] = h
			if r := b.create(); r.code == 0 || r.err == "" {
				t.Errorf("create: %s", r)
			}
			for _, h := range read() {
				if h.Name == "late" || strings.HasPrefix(h.Name, "start") || strings.HasPrefix(h.Name, "poststart") {
					t.Errorf("%s runs", h.Name)
				}
			}
			equal(t, "status", b.status(), "")
			b.clean()
		})
	}
}

// Step 7: the same for start; the program does not run.
func TestStartHookFails(t *testing.T) {
	b := newBox(t, "echo", "ran")
	log, read := b.hooks()
	b.spec.Hooks.StartContainer = []specs.Hook{b.hook("startContainer", log, "startContainer", "3"), b.hook("startContainer", log, "late")}
	b.created()
	pid := b.pid()
	b.refused("start", b.id)
	b.ended(pid)
	equal(t, "output", b.output(), "")
	for _, h := range read() {
		if h.Name == "late" || strings.HasPrefix(h.Name, "poststart") {
			t.Errorf("%s runs", h.Name)
		}
	}
	if s := b.status(); s != "stopped" && s != "" {
		t.Errorf("status %s", s)
	}
}

// Step 9 since version 1.2: an error, and the container is stopped.
func TestPoststartHookFails(t *testing.T) {
	b := newBox(t, "wait")
	log, _ := b.hooks()
	b.spec.Hooks.Poststart = []specs.Hook{b.hook("poststart", log, "poststart", "3")}
	b.created()
	b.refused("start", b.id)
	b.until("the end", func() bool { s := b.status(); return s == "stopped" || s == "" })
}

// Step 13: a warning; the other hooks run and the container is gone.
func TestPoststopHookFails(t *testing.T) {
	b := newBox(t, "exit", "0")
	log, read := b.hooks()
	b.spec.Hooks.Poststop = []specs.Hook{b.hook("poststop", log, "poststop", "3"), b.hook("poststop", log, "late")}
	b.run()
	b.must("delete", b.id)
	equal(t, "status", b.status(), "")
	if !strings.HasSuffix(names(read()), "poststop late") {
		t.Errorf("hooks %s", names(read()))
	}
}

// config.md, "hooks", timeout: seconds until the hook is aborted.
func TestHookTimeout(t *testing.T) {
	b := newBox(t, "wait")
	log, _ := b.hooks()
	one := 1
	h := b.hook("createRuntime", log, "hanging", "hang")
	h.Timeout = &one
	b.spec.Hooks.CreateRuntime = []specs.Hook{h}
	begin := time.Now()
	if r := b.create(); r.code == 0 {
		t.Error("create succeeds")
	}
	if took := time.Since(begin); took < time.Second || took > patience {
		t.Errorf("create took %v", took)
	}
}

// A hook's program that is not there is a failure as any other.
func TestHookMissing(t *testing.T) {
	b := newBox(t, "wait")
	b.spec.Hooks = &specs.Hooks{CreateRuntime: []specs.Hook{{Path: "/no/such/hook"}}}
	if r := b.create(); r.code == 0 || !strings.Contains(r.err, "/no/such/hook") {
		t.Errorf("create: %s", r)
	}
	equal(t, "status", b.status(), "")
}
