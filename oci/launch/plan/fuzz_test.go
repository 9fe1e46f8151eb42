package plan

import (
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

func refusal(err error) bool {
	return errors.Is(err, fs.ErrInvalid) || errors.Is(err, errors.ErrUnsupported)
}

// FuzzConfig takes anything for a config.json. What is accepted becomes a program that its reader accepts, works only on
// what it was told to open, opens absolute paths, and writes no parameter of the host's.
func FuzzConfig(f *testing.F) {
	const head = `{"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["x"],"cwd":"/"`
	for _, tail := range []string{ // short ones: mutations of a whole config hardly ever meet a field
		`},"linux":{"namespaces":[{"type":"mount"},{"type":"pid"}],"maskedPaths":["/a"],"readonlyPaths":["/b"]}}`,
		`},"mounts":[{"destination":"/p","type":"proc"},{"destination":"/t","type":"tmpfs","options":["ro","tmpcopyup"]},{"destination":"/b","type":"bind","source":"s","options":["rbind","ro","rshared"]}],"linux":{"namespaces":[{"type":"mount"}]}}`,
		`},"mounts":[{"destination":"/sys","type":"sysfs"},{"destination":"/c","type":"cgroup","options":["ro"]},{"destination":"/","type":"overlay","options":["lowerdir+=/l"]}],"linux":{"namespaces":[{"type":"mount"},{"type":"user"}],"uidMappings":[{"size":9}],"gidMappings":[{"size":9}]}}`,
		`,"terminal":true,"consoleSize":{"height":1,"width":2}},"hostname":"h","linux":{"namespaces":[{"type":"mount"},{"type":"uts"},{"type":"network","path":"/n"}],"sysctl":{"net.x":"1","net/y":"2"},"devices":[{"path":"/d","type":"c","major":1,"minor":3}]}}`,
		`},"hooks":{"createRuntime":[{"path":"/h","timeout":1}],"createContainer":[{"path":"/h","args":["a"]}],"startContainer":[{"path":"/h","env":["e"]}]},"linux":{"namespaces":[{"type":"mount"}],"resources":{"devices":[{"allow":false,"access":"rwm"}],"pids":{"limit":3}}}}`,
		`},"linux":{"namespaces":[{"type":"mount"}],"rootfsPropagation":"rslave","personality":{"domain":"LINUX32"},"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0"},"mountLabel":"l"}}`,
	} {
		f.Add([]byte(head+tail), false)
		f.Add([]byte(head+tail), true)
	}
	f.Fuzz(func(t *testing.T, text []byte, unified bool) {
		c, err := Parse(text)
		if err != nil {
			return
		}
		spaces, err := c.Spaces()
		if err != nil {
			if !refusal(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		host := Host{ID: "c", Bundle: "/b", Unified: unified, CgroupPath: "/c", Console: c.Process.Terminal,
			CgroupDirs: map[string]string{"memory": "/sys/fs/cgroup/memory/c", "": "/sys/fs/cgroup/unified/c"}}
		p, err := c.Container(host, spaces)
		if err != nil {
			if !refusal(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		p.SetState([]byte("{}"), []byte("{}"))
		checkPlan(t, p)
	})
}

func checkPlan(t *testing.T, p *Plan) {
	wire := p.Program.Encode()
	if len(wire) > program.MaxMessage {
		return
	}
	if _, err := program.Decode(wire); err != nil {
		t.Fatalf("the init would refuse it: %v", err)
	}
	for _, s := range p.Sources {
		if s.Kind == Bind && !filepath.IsAbs(s.Path) {
			t.Fatalf("relative source %q", s.Path)
		}
	}
	filled := map[int]bool{}
	for i, s := range p.Program.Setup {
		switch s.Op {
		case program.OpFilesystem, program.OpTree:
			if s.Slot < len(p.Sources) || filled[s.Slot] {
				t.Fatalf("step %d fills slot %d a second time", i, s.Slot)
			}
			filled[s.Slot] = true
		case program.OpMount, program.OpRoot, program.OpCopyUp:
			if s.Slot >= len(p.Sources) && !filled[s.Slot] {
				t.Fatalf("step %d attaches slot %d before it is filled", i, s.Slot)
			}
		case program.OpSysctl:
			if sysctlSpace(s.Path) == 0 || strings.Contains(s.Path, "..") {
				t.Fatalf("sysctl %s", s.Path)
			}
		}
	}
}

// FuzzProcess is the document that exec takes.
func FuzzProcess(f *testing.F) {
	f.Add([]byte(`{"args":["sh"],"cwd":"/","user":{"uid":1,"umask":7},"rlimits":[{"type":"RLIMIT_NOFILE","hard":2,"soft":1}]}`))
	f.Add([]byte(`{"args":["sh"],"cwd":"/","env":["A=\u0000base64:QQ=="],"capabilities":{"bounding":["CAP_KILL"],"ambient":["CAP_CHOWN"]}}`))
	f.Add([]byte(`{"args":["sh"],"cwd":"/","scheduler":{"policy":"SCHED_FIFO","priority":1},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":7}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		from := new(specs.Process)
		if json.Unmarshal(text, from) != nil {
			return
		}
		p := program.Program{Listen: -1, Slots: 1}
		p.Process.Security.Notify = -1
		if _, err := Process(from, &p.Process, program.Rlimit{Resource: unix.RLIMIT_NOFILE, Soft: 1, Hard: 2}); err != nil {
			if !refusal(err) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		for _, s := range append(append([]string{p.Process.Cwd}, p.Process.Args...), p.Process.Env...) {
			if strings.ContainsRune(s, 0) && s != p.Process.Cwd { // the working directory's is refused when it is opened
				t.Fatalf("NUL in %q", s)
			}
		}
		if c := p.Process.Security.Caps; c.Effective&^c.Permitted != 0 || c.Ambient&^(c.Permitted&c.Inheritable) != 0 {
			t.Fatalf("sets that the kernel would not take: %+v", c)
		}
		again, err := program.Decode(p.Encode())
		if err != nil || !reflect.DeepEqual(again.Process.Args, from.Args) {
			t.Fatalf("%v: %+v", err, again)
		}
	})
}

// FuzzMaps has the kernel as judge: what checkMaps accepts can be written to uid_map and gid_map, what it refuses can't.
func FuzzMaps(f *testing.F) {
	if os.Geteuid() != 0 {
		f.Skip("needs root: maps any id")
	}
	for _, s := range []string{`[{"containerID":0,"hostID":200000,"size":65536}]`, `[{"size":1},{"containerID":1,"hostID":1,"size":4294967294}]`,
		`[{"size":4294967295}]`, `[{"containerID":5,"hostID":4294967290,"size":6}]`, `[{"size":2},{"containerID":1,"hostID":7,"size":1}]`, `[{"size":0}]`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		var maps []specs.LinuxIDMapping
		if json.Unmarshal(text, &maps) != nil || len(maps) == 0 || len(maps) > 100 {
			return // a text of a page and more is refused for its length
		}
		err := checkMaps("m", maps)
		if err != nil && !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("class of %v", err)
		}
		if kernel := mapped(maps); (kernel == nil) != (err == nil) {
			t.Fatalf("%s: %v, the kernel says %v", text, err, kernel)
		}
	})
}

// mapped makes a user namespace with the mappings for both kinds of ids.
func mapped(maps []specs.LinuxIDMapping) error {
	ids := make([]syscall.SysProcIDMap, len(maps))
	for i, m := range maps {
		ids[i] = syscall.SysProcIDMap{ContainerID: int(m.ContainerID), HostID: int(m.HostID), Size: int(m.Size)}
	}
	cmd := exec.Command("/bin/true")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids, GidMappingsEnableSetgroups: true}
	if err := cmd.Start(); err != nil {
		return err
	}
	cmd.Wait()
	return nil
}

func FuzzOptions(f *testing.F) {
	for _, s := range []string{"ro,nosuid,suid", "rbind,rro,rslave", "size=1k,mode=755", "tmpcopyup,idmap"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, words string) {
		o, err := parseOptions(strings.Split(words, ","))
		if err != nil {
			return
		}
		if o.set&o.clear&^atime != 0 || o.recSet&o.recClear&^atime != 0 {
			t.Fatalf("%q both sets and clears: %+v", words, o)
		}
	})
}
