package quick_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch/plan"
	"github.com/berth-runtime/berth/oci/launch/program"
	"github.com/berth-runtime/berth/oci/launch/quick"
)

// asOrdinary is what the ordinary program makes of a document that is taken here; an error where it would refuse it or warn.
func asOrdinary(text string) (quick.Described, error) {
	var p specs.Process
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		return quick.Described{}, err
	}
	var out program.Process
	warnings, err := plan.Process(&p, &out, program.Rlimit{})
	switch {
	case err != nil:
		return quick.Described{}, err
	case len(warnings) > 0:
		return quick.Described{}, fmt.Errorf("warnings: %v", warnings)
	case out.Terminal || out.Schedule.Set || out.Schedule.IOSet || out.Affinity != "" || out.Security.AppArmor != "" || out.Security.SELinux != "":
		return quick.Described{}, fmt.Errorf("not to be done without a Go runtime: %+v", out)
	}
	home := true
	for _, e := range out.Env {
		home = home && !strings.HasPrefix(e, "HOME=")
	}
	return quick.Described{Args: out.Args, Env: out.Env, Cwd: out.Cwd, UID: out.UID, GID: out.GID, Umask: out.Umask, Groups: out.Groups,
		Limits: out.Rlimits, Caps: *out.Security.Caps, NoNewPrivs: out.Security.NoNewPrivs, Home: home, Score: p.OOMScoreAdj}, nil
}

func same(a, b quick.Described) bool {
	text := func(d quick.Described) string { // empty lists and none are the same
		score := "none"
		if d.Score != nil {
			score = fmt.Sprint(*d.Score)
		}
		d.Score = nil
		return fmt.Sprintf("%#v %s", d, score)
	}
	none := strings.NewReplacer("[]string(nil)", "[]string{}", "[]uint32(nil)", "[]uint32{}", "[]program.Rlimit(nil)", "[]program.Rlimit{}")
	return none.Replace(text(a)) == none.Replace(text(b))
}

func wholeProcess() *specs.Process {
	mask, score := uint32(0o27), -5
	caps := []string{"CAP_CHOWN", "CAP_KILL"}
	return &specs.Process{Args: []string{"/bin/sh", "-c", "echo \"<&>\" \\ \t\n 'é' \u2028 \x7f"}, Env: []string{"A=1", "HOME=/x", "B=", ""}, Cwd: "/a b",
		User: specs.User{UID: 1000, GID: 4294967294, Umask: &mask, AdditionalGids: []uint32{0, 7}}, NoNewPrivileges: true, OOMScoreAdj: &score,
		Rlimits:      []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Soft: 1, Hard: 18446744073709551615}, {Type: "RLIMIT_CORE"}},
		Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps[:1], Permitted: caps, Inheritable: caps[1:], Ambient: caps[1:]},
		ConsoleSize:  &specs.Box{Height: 1, Width: 2}}
}

// What is taken means the same to the ordinary program, in whatever layout.
func TestProcess(t *testing.T) {
	plain, _ := json.Marshal(wholeProcess())
	spread, _ := json.MarshalIndent(wholeProcess(), "\t", "  ")
	raw := strings.NewReplacer(`\u003c`, "<", `\u003e`, ">", `\u0026`, "&", `\u2028`, "\u2028").Replace(string(plain))
	for _, text := range []string{raw, strings.ReplaceAll(string(spread), `\u2028`, "\u2028")} {
		got, ok := quick.Describe(text, false)
		want, err := asOrdinary(text)
		if !ok || err != nil || !same(got, want) {
			t.Errorf("%v, %v\n%+v, want\n%+v\n%s", ok, err, got, want, text)
		}
		config := `{"ociVersion":"1.0.2","x":[{"process":{"args":[1e5,-2.5,null,"]\"}"]}}, true],"process":` + text + `,"linux":{"seccomp":{}}}`
		if again, ok := quick.Describe(config, true); !ok || !reflect.DeepEqual(got, again) {
			t.Errorf("as a section: %v %+v", ok, again)
		}
	}
}

// What is rare or wrong is left to the ordinary program.
func TestProcessLeaves(t *testing.T) {
	for name, change := range map[string]func(*specs.Process){
		"terminal":    func(p *specs.Process) { p.Terminal = true },
		"no args":     func(p *specs.Process) { p.Args = nil },
		"empty arg":   func(p *specs.Process) { p.Args = []string{""} },
		"NUL":         func(p *specs.Process) { p.Args = []string{"a\x00b"} },
		"escaped":     func(p *specs.Process) { p.Env = []string{"\x00base64:QQ=="} },
		"no cwd":      func(p *specs.Process) { p.Cwd = "" },
		"relative":    func(p *specs.Process) { p.Cwd = "a" },
		"root as -1":  func(p *specs.Process) { p.User.UID = 1<<32 - 1 },
		"group -1":    func(p *specs.Process) { p.User.AdditionalGids = []uint32{1<<32 - 1} },
		"user name":   func(p *specs.Process) { p.User.Username = "x" },
		"apparmor":    func(p *specs.Process) { p.ApparmorProfile = "x" },
		"selinux":     func(p *specs.Process) { p.SelinuxLabel = "x" },
		"scheduler":   func(p *specs.Process) { p.Scheduler = &specs.Scheduler{Policy: "SCHED_OTHER"} },
		"io":          func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE"} },
		"affinity":    func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Final: "0"} },
		"limit":       func(p *specs.Process) { p.Rlimits[0].Type = "RLIMIT_X" },
		"soft > hard": func(p *specs.Process) { p.Rlimits[1].Soft = 1 },
		"two limits":  func(p *specs.Process) { p.Rlimits = append(p.Rlimits, p.Rlimits[0]) },
		"capability":  func(p *specs.Process) { p.Capabilities.Bounding = []string{"CAP_X"} },
		"ambient":     func(p *specs.Process) { p.Capabilities.Ambient = []string{"CAP_CHOWN"} },
		"too much":    func(p *specs.Process) { p.Env = append(p.Env, strings.Repeat("x", 1<<20)) },
	} {
		p := wholeProcess()
		change(p)
		text, _ := json.Marshal(p)
		if got, ok := quick.Describe(string(text), false); ok {
			t.Errorf("%s: %+v", name, got)
		}
	}
	text, _ := json.Marshal(wholeProcess())
	whole := strings.NewReplacer(`\u2028`, "x").Replace(string(text))
	if _, ok := quick.Describe(whole, false); !ok {
		t.Fatal("not taken whole")
	}
	for n := range len(whole) {
		if _, ok := quick.Describe(whole[:n], false); ok {
			t.Errorf("%d bytes of %d are taken", n, len(whole))
		}
	}
	for _, text := range []string{whole + "x", whole + "\x00", `{"Args":["x"],` + whole[1:], `{"args":["x"],` + whole[1:], "null", "[]", ""} {
		if _, ok := quick.Describe(text, false); ok {
			t.Errorf("taken: %s", text)
		}
	}
	for _, text := range []string{`{"Process":{},"process":` + whole + `}`, `{"process":` + whole + `,"process":{}}`, `{"linux":{}}`} {
		if _, ok := quick.Describe(text, true); ok {
			t.Errorf("taken: %s", text)
		}
	}
}

func FuzzProcess(f *testing.F) {
	text, _ := json.Marshal(wholeProcess())
	f.Add(string(text))
	f.Add(strings.ReplaceAll(string(text), `\u2028`, "\u2028"))
	f.Add(`{"args":["a\/\b\f\r"],"cwd":"/","user":{"uid":01}, "env":[ ] , "rlimits":[{"type":"CPU","soft":1,"hard":2}] }`)
	f.Fuzz(func(t *testing.T, s string) {
		got, ok := quick.Describe(s, false)
		if !ok {
			return
		}
		want, err := asOrdinary(s)
		if err != nil || !same(got, want) {
			t.Errorf("%q: %v\n%+v, want\n%+v", s, err, got, want)
		}
	})
}

func TestHome(t *testing.T) {
	for _, c := range []struct {
		text, want string
		uid        uint32
		ok         bool
	}{
		{"", "/", 0, true}, {"root:x:0:0:root:/root:/bin/sh\n", "/root", 0, true}, {"a:x:7:0::/h", "/h", 7, true}, {"a:x:7:0::\nb:x:7:0::/b\n", "/b", 7, true},
		{"a:x:4294967303:0::/h\n", "/", 7, true}, {"a:x:-7:0::/h\n", "/", 7, true}, {"a:x::0::/h\n", "/", 0, true}, {"a:x:7:0::/h\x00:\n", "", 7, false},
		{"x\n\n:::::\na:x:07:0::/h:", "/h", 7, true}, {"a:x:7:0:/h\n", "/", 7, true},
	} {
		if got, ok := quick.HomeOf(c.text, c.uid); got != c.want || ok != c.ok {
			t.Errorf("%q: %q %v, want %q %v", c.text, got, ok, c.want, c.ok)
		}
	}
}

// FuzzHome: the image's file is read as strings.Split and strconv read it.
func FuzzHome(f *testing.F) {
	f.Add("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n", uint32(1000))
	f.Add("evil:x:4294967296:0::/a:\nevil:x:-1:0::/b:\nevil:x:+0:0::/c:\nevil:x:00:0::/d", uint32(0))
	f.Add(":::::\nx:x:7:::\x00:\nx:x:7:7::/e\r\n", uint32(7))
	f.Fuzz(func(t *testing.T, text string, uid uint32) {
		want, fine := "/", true
		for _, line := range strings.Split(text, "\n") {
			fields := strings.Split(line, ":")
			if len(fields) < 6 || fields[5] == "" {
				continue
			}
			if n, err := strconv.ParseUint(fields[2], 10, 32); err == nil && uint32(n) == uid {
				want, fine = fields[5], !strings.ContainsRune(fields[5], 0)
				break
			}
		}
		if got, ok := quick.HomeOf(text, uid); ok != fine || ok && got != want {
			t.Errorf("%q, %d: %q %v, want %q %v", text, uid, got, ok, want, fine)
		}
	})
}

// What the daemon writes is taken, unless it has labels: of an exec's document it is the container's own.
func TestDaemonsDocuments(t *testing.T) {
	files, _ := filepath.Glob("../../../sandbox/compile/testdata/*.json")
	if len(files) < 5 {
		t.Fatalf("no specifications of the daemon: %v", files)
	}
	for _, name := range files {
		text, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		labels := strings.Contains(string(text), `"apparmorProfile"`) || strings.Contains(string(text), `"selinuxLabel"`)
		if _, ok := quick.Describe(string(text), true); ok == labels {
			t.Errorf("%s: %v", name, ok)
		}
	}
}
