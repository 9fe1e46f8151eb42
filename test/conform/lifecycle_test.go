package conform_test

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// Each command in each state: whether it may succeed, and the state that it leaves (runtime.md, "Operations"; pause,
// resume, exec, ps and update are runc's). A state of "" is no container.
func TestCommandInState(t *testing.T) {
	const ok, bad = true, false
	for _, c := range []struct {
		state, command string
		good           bool
		after          string
	}{
		{"", "state", bad, ""}, {"", "start", bad, ""}, {"", "kill ID KILL", bad, ""}, {"", "delete", bad, ""},
		{"", "delete --force", ok, ""}, {"", "exec ID /probe exit 0", bad, ""}, {"", "pause", bad, ""}, {"", "resume", bad, ""},
		{"", "ps", bad, ""}, {"", "update --pids-limit 20", bad, ""},

		{"created", "create --bundle BUNDLE", bad, "created"}, {"created", "state", ok, "created"}, {"created", "start", ok, "running"},
		{"created", "kill ID KILL", ok, "stopped"}, {"created", "delete --force", ok, ""},
		{"created", "exec ID /probe exit 0", ok, "created"}, {"created", "ps", ok, "created"},
		{"created", "update --pids-limit 20", ok, "created"}, {"created", "resume", bad, "created"}, {"created", "delete", bad, "created"},

		{"running", "create --bundle BUNDLE", bad, "running"}, {"running", "state", ok, "running"}, {"running", "start", bad, "running"},
		{"running", "kill ID KILL", ok, "stopped"}, {"running", "delete", bad, "running"}, {"running", "delete --force", ok, ""},
		{"running", "exec ID /probe exit 0", ok, "running"}, {"running", "ps", ok, "running"}, {"running", "pause", ok, "paused"},
		{"running", "update --pids-limit 20", ok, "running"}, {"running", "resume", bad, "running"},

		{"paused", "create --bundle BUNDLE", bad, "paused"}, {"paused", "state", ok, "paused"}, {"paused", "start", bad, "paused"},
		{"paused", "delete", bad, "paused"}, {"paused", "delete --force", ok, ""}, {"paused", "exec ID /probe exit 0", bad, "paused"},
		{"paused", "ps", ok, "paused"}, {"paused", "resume", ok, "running"}, {"paused", "update --pids-limit 20", ok, "paused"},
		{"paused", "pause", bad, "paused"}, {"paused", "kill ID KILL", ok, "stopped"},

		{"stopped", "create --bundle BUNDLE", bad, "stopped"}, {"stopped", "state", ok, "stopped"}, {"stopped", "start", bad, "stopped"},
		{"stopped", "kill ID TERM", bad, "stopped"}, {"stopped", "kill ID KILL", bad, "stopped"}, {"stopped", "delete", ok, ""},
		{"stopped", "delete --force", ok, ""}, {"stopped", "exec ID /probe exit 0", bad, "stopped"}, {"stopped", "pause", bad, "stopped"},
		{"stopped", "resume", bad, "stopped"},
	} {
		name := c.state
		if name == "" {
			name = "none"
		}
		words := strings.Fields(c.command)
		last := strings.TrimLeft(words[len(words)-1], "-")
		t.Run(name+"/"+words[0]+"_"+last, func(t *testing.T) {
			b := newBox(t, "wait")
			b.bring(c.state)
			if !strings.Contains(c.command, "ID") {
				words = append(words, b.id)
			}
			for i, w := range words {
				words[i] = strings.NewReplacer("ID", b.id, "BUNDLE", b.bundle).Replace(w)
			}
			r := b.oci(words...)
			if (r.code == 0) != c.good {
				t.Errorf("%s: %s", c.command, r)
			}
			if !c.good && r.err == "" {
				t.Errorf("%s: nothing on standard error", c.command)
			}
			b.until("state "+c.after, func() bool { return b.status() == c.after })
		})
	}
}

// bring makes a container of that state.
func (b *box) bring(state string) {
	b.Helper()
	switch state {
	case "":
		b.config()
	case "created":
		b.created()
	case "running":
		b.started()
	case "paused":
		b.started()
		b.must("pause", b.id)
	case "stopped":
		b.started()
		pid := b.pid()
		b.must("kill", b.id, "KILL")
		b.ended(pid)
	}
}

// runtime.md, "State".
func TestStateDocument(t *testing.T) {
	b := newBox(t, "wait")
	b.spec.Annotations = map[string]string{"org.example.key": "värde", "empty": ""}
	b.created()
	doc := b.state()
	equal(t, "id", doc["id"], any(b.id))
	equal(t, "status", doc["status"], any("created"))
	equal(t, "bundle", doc["bundle"], any(b.bundle))
	if v, _ := doc["ociVersion"].(string); !strings.HasPrefix(v, "1.") {
		t.Errorf("ociVersion %q", v)
	}
	notes, _ := doc["annotations"].(map[string]any)
	if notes["org.example.key"] != "värde" {
		t.Errorf("annotations %v", doc["annotations"])
	}
	pid := b.pid()
	if _, err := os.Stat("/proc/" + strconv.Itoa(pid)); err != nil || pid < 2 {
		t.Errorf("pid %d: %v", pid, err)
	}
	b.must("start", b.id)
	b.says("up")
	equal(t, "pid after start", b.pid(), pid)
	b.must("kill", b.id, "TERM")
	equal(t, "exit code", b.ended(pid), 7)
	equal(t, "status at the end", b.status(), "stopped")
	if n := b.pid(); n != 0 {
		t.Errorf("pid of a stopped container: %d", n)
	}
}

// The program runs at start, not at create; and what becomes of config.json in between does not matter.
func TestCreateDoesNotRun(t *testing.T) {
	b := newBox(t, "echo", "first")
	b.created()
	pid := b.pid()
	b.spec.Process.Args = []string{"/probe", "echo", "second"}
	b.config()
	equal(t, "output before start", b.output(), "")
	b.must("start", b.id)
	equal(t, "exit code", b.ended(pid), 0)
	equal(t, "output", b.output(), "first\n")
}

func TestExitCodes(t *testing.T) {
	for args, want := range map[string]int{"exit 0": 0, "exit 1": 1, "exit 255": 255} {
		t.Run(args, func(t *testing.T) {
			b := newBox(t, strings.Fields(args)...)
			b.config()
			r := b.oci("run", "--bundle", b.bundle, b.id)
			equal(t, "run", r.code, want)
			equal(t, "state afterwards", b.status(), "")
		})
	}
}

func TestRunOutput(t *testing.T) {
	b := newBox(t, "echo", "hello")
	b.config()
	r := b.oci("run", "--bundle", b.bundle, b.id)
	if r.code != 0 || r.out != "hello\n" {
		t.Errorf("%s", r)
	}
}

func TestRunDetached(t *testing.T) {
	b := newBox(t, "wait")
	b.config()
	f, err := os.Create(b.out)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	name := b.bundle + "/pid"
	if r := b.with(&exec.Cmd{Stdout: f}, "run", "--detach", "--pid-file", name, "--bundle", b.bundle, b.id); r.code != 0 {
		t.Fatal(r)
	}
	b.says("up")
	text, _ := os.ReadFile(name)
	equal(t, "pid file", string(text), strconv.Itoa(b.pid()))
	equal(t, "status", b.status(), "running")
}

func TestPidFile(t *testing.T) {
	b := newBox(t, "wait")
	name := b.bundle + "/pid"
	b.created("--pid-file", name)
	text, err := os.ReadFile(name)
	if err != nil || string(text) != strconv.Itoa(b.pid()) {
		t.Errorf("%q, %v; pid %d", text, err, b.pid())
	}
}

// A bundle is where the runtime is, or named relative to it, and so is the pid file.
func TestRelativeBundle(t *testing.T) {
	for name, args := range map[string][]string{"default": nil, "dot": {"--bundle", "."}, "below": {"--bundle", "bundle"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "wait")
			b.config()
			cmd := &exec.Cmd{Dir: b.bundle}
			if name == "below" {
				cmd.Dir = filepath.Dir(b.bundle)
			}
			if r := b.with(cmd, append(append([]string{"create", "--pid-file", "p"}, args...), b.id)...); r.code != 0 {
				t.Fatal(r)
			}
			equal(t, "bundle in state", b.state()["bundle"], any(b.bundle))
			if text, err := os.ReadFile(cmd.Dir + "/p"); err != nil || string(text) != strconv.Itoa(b.pid()) {
				t.Errorf("pid file: %q, %v", text, err)
			}
		})
	}
}

func TestCreateErrors(t *testing.T) {
	for name, c := range map[string]struct{ id, text string }{
		"no config":      {"c", ""},
		"broken config":  {"c", "{"},
		"id with slash":  {"a/b", "ok"},
		"id of dots":     {"..", "ok"},
		"empty id":       {"", "ok"},
		"no root":        {"c", `{"ociVersion":"1.0.2","process":{"args":["/probe"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}`},
		"no such rootfs": {"c", `{"ociVersion":"1.0.2","root":{"path":"none"},"process":{"args":["/probe"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}`},
		"version":        {"c", `{"ociVersion":"invalid","root":{"path":"rootfs"},"process":{"args":["/probe"],"cwd":"/"},"linux":{"namespaces":[{"type":"mount"}]}}`},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "wait")
			b.config()
			switch c.text {
			case "":
				os.Remove(b.bundle + "/config.json")
			case "ok":
			default:
				os.WriteFile(b.bundle+"/config.json", []byte(c.text), 0o644)
			}
			r := b.refused("create", "--bundle", b.bundle, c.id)
			if r.err == "" {
				t.Error("nothing on standard error")
			}
			left, _ := os.ReadDir(b.root)
			for _, e := range left {
				if e.IsDir() && e.Name()[0] != '.' && exists(b.root+"/"+e.Name()+"/state.json") {
					t.Errorf("%s is left", e.Name())
				}
			}
		})
	}
}

// What is wrong with the program itself is told at create or at start, and nothing of the container runs on.
func TestProgramErrors(t *testing.T) {
	for name, args := range map[string][]string{"missing": {"/none"}, "not in PATH": {"none"}, "not executable": {"/etc/passwd"}, "directory": {"/etc"}} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t)
			b.spec.Process.Args = args
			r := b.begin()
			if r.code == 0 || !strings.Contains(r.err, filepath.Base(args[0])) {
				t.Errorf("%s", r)
			}
			if s := b.status(); s != "" && s != "stopped" {
				b.until("the end", func() bool { return b.status() == "stopped" })
			}
		})
	}
}

func TestIDCanBeUsedAgain(t *testing.T) {
	b := newBox(t, "echo", "x")
	for range 3 {
		equal(t, "exit code", b.run(), 0)
		b.must("delete", b.id)
		b.refused("state", b.id)
	}
	equal(t, "output", b.output(), "x\nx\nx\n")
}

func TestList(t *testing.T) {
	b := newBox(t, "wait")
	var docs []map[string]any
	b.created()
	b.must("delete", "--force", b.id)
	if err := json.Unmarshal([]byte(b.must("list", "--format", "json").out), &docs); err != nil || len(docs) > 0 {
		t.Errorf("list of nothing: %v, %v", docs, err)
	}
	b.created()
	if err := json.Unmarshal([]byte(b.must("list", "--format", "json").out), &docs); err != nil || len(docs) != 1 {
		t.Fatalf("%v, %v", docs, err)
	}
	equal(t, "id", docs[0]["id"], any(b.id))
	equal(t, "status", docs[0]["status"], any("created"))
	equal(t, "pid", docs[0]["pid"], any(float64(b.pid())))
	equal(t, "bundle", docs[0]["bundle"], any(b.bundle))
	if docs[0]["created"] == nil || docs[0]["owner"] == nil {
		t.Errorf("no created or owner: %v", docs[0])
	}
	equal(t, "quiet", b.must("list", "--quiet").out, b.id+"\n")
	table := strings.Split(strings.TrimSpace(b.must("list").out), "\n")
	if len(table) != 2 {
		t.Fatalf("table: %q", table)
	}
	equal(t, "head", strings.Join(strings.Fields(table[0])[:4], " "), "ID PID STATUS BUNDLE")
	equal(t, "row", strings.Join(strings.Fields(table[1])[:4], " "), fmt.Sprintf("%s %d created %s", b.id, b.pid(), b.bundle))
	b.refused("list", "--format", "yaml")
}

// Errors are on standard error, and in the log as JSON where callers (containerd, podman) read them from.
func TestLog(t *testing.T) {
	b := newBox(t, "wait")
	log := b.bundle + "/log"
	b.refused("--log", log, "--log-format", "json", "state", "none")
	text, err := os.ReadFile(log)
	if err != nil {
		t.Fatal(err)
	}
	var last struct{ Level, Msg, Time string }
	lines := strings.Split(strings.TrimSpace(string(text)), "\n")
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil {
		t.Fatalf("%v in %q", err, text)
	}
	equal(t, "level", last.Level, "error")
	if last.Msg == "" || last.Time == "" {
		t.Errorf("%+v", last)
	}
}

func TestFeatures(t *testing.T) {
	b := newBox(t, "wait")
	var f struct {
		OCIVersionMin, OCIVersionMax string
		Hooks, MountOptions          []string
		Linux                        struct {
			Namespaces, Capabilities []string
			Seccomp                  struct{ Enabled bool }
		}
	}
	if err := json.Unmarshal([]byte(b.must("features").out), &f); err != nil {
		t.Fatal(err)
	}
	for what, list := range map[string][]string{"hooks": f.Hooks, "mountOptions": f.MountOptions, "namespaces": f.Linux.Namespaces, "capabilities": f.Linux.Capabilities} {
		for _, want := range map[string][]string{"hooks": {"prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"},
			"mountOptions": {"ro", "rbind", "nosuid", "rslave"}, "namespaces": {"mount", "user", "cgroup"}, "capabilities": {"CAP_NET_ADMIN"}}[what] {
			if !strings.Contains(" "+strings.Join(list, " ")+" ", " "+want+" ") {
				t.Errorf("%s lacks %s", what, want)
			}
		}
	}
	if !f.Linux.Seccomp.Enabled || f.OCIVersionMin == "" || f.OCIVersionMax == "" {
		t.Errorf("%+v", f)
	}
}

// spec writes a config.json that the runtime itself can run.
func TestSpec(t *testing.T) {
	b := newBox(t)
	b.must("spec", "--bundle", b.bundle)
	b.refused("spec", "--bundle", b.bundle) // it is there already
	text, err := os.ReadFile(b.bundle + "/config.json")
	if err == nil {
		err = json.Unmarshal(text, b.spec)
	}
	if err != nil {
		t.Fatal(err)
	}
	b.spec.Process.Args, b.spec.Process.Terminal = []string{"/probe", "exit", "3"}, false
	b.spec.Linux.CgroupsPath = groupName(b.id)
	equal(t, "exit code", b.run(), 3)
}
