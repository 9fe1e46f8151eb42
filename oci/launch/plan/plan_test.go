package plan_test

import (
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/oci/launch/plan"
)

// update rewrites the golden files.
var update = flag.Bool("update", false, "write testdata")

func decide(text []byte, host plan.Host) (*plan.Plan, error) {
	c, err := plan.Parse(text)
	if err != nil {
		return nil, err
	}
	spaces, err := c.Spaces()
	if err != nil {
		return nil, err
	}
	return c.Container(host, spaces)
}

// TestGolden compares whole plans with files: every change of a decision shows as a difference.
func TestGolden(t *testing.T) {
	t.Parallel()
	hosts := map[string]plan.Host{
		"v1": {ID: "c", Bundle: "/b", CgroupPath: "/p/c", CgroupDirs: map[string]string{"memory": "/sys/fs/cgroup/memory/p/c",
			"cpu": "/sys/fs/cgroup/cpu,cpuacct/p/c", "cpuacct": "/sys/fs/cgroup/cpu,cpuacct/p/c", "name=systemd": "/sys/fs/cgroup/systemd/p/c"}},
		"v2": {ID: "c", Bundle: "/b", Unified: true, CgroupPath: "/p/c", CgroupDirs: map[string]string{"": "/sys/fs/cgroup/p/c"}},
	}
	for _, name := range []string{"plain", "userns", "hooks"} {
		text, err := os.ReadFile("testdata/" + name + ".json")
		if err != nil {
			t.Fatal(err)
		}
		for host := range hosts {
			p, err := decide(text, hosts[host])
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			got, _ := json.MarshalIndent(p, "", " ")
			file := "testdata/" + name + "." + host + ".golden"
			if *update {
				os.WriteFile(file, got, 0o644)
			}
			if want, _ := os.ReadFile(file); string(want) != string(got) {
				t.Errorf("%s differs from %s; run with -update and look at the difference", name, file)
			}
		}
	}
}

const minimal = `"ociVersion":"1.0.2","root":{"path":"r"},"process":{"args":["x"],"cwd":"/"}`

// Fields are honoured or refused by name, never ignored.
func TestRefused(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"ociVersion":"1.0.2"}`: "root",
		`{` + strings.Replace(minimal, `"cwd"`, `"user":{"uid":4294967295},"cwd"`, 1) + `,"linux":{"namespaces":[{"type":"mount"}]}}`:   "process.user.uid",
		`{` + strings.Replace(minimal, `"cwd"`, `"user":{"gid":4294967295},"cwd"`, 1) + `,"linux":{"namespaces":[{"type":"mount"}]}}`:   "process.user.gid",
		`{` + minimal + `,"linux":{"uidMappings":[{"containerID":0,"hostID":4294967295,"size":2}],"namespaces":[{"type":"mount"}]}}`:    "linux.uidMappings[0]",
		`{` + minimal + `,"mounts":[{"destination":"/a","gidMappings":[{"size":2},{"hostID":9,"containerID":1,"size":1}]}],"linux":{}}`: "mounts[0].gidMappings[1]: overlaps",
		`{` + minimal + `,"linux":{"namespaces":[{"type":"mount","path":"x"}]}}`:                                                        "linux.namespaces[0].path",
		`{` + minimal + `,"linux":{"namespaces":[{"type":"what"}]}}`:                                                                    "linux.namespaces[0].type",
		`{` + minimal + `,"linux":{"namespaces":[{"type":"mount"},{"type":"mount"}]}}`:                                                  "second one",
		`{` + minimal + `,"linux":{"namespaces":[{"type":"mount"},{"type":"user"}]}}`:                                                   "linux.uidMappings",
		`{` + minimal + `,"hostname":"h","linux":{"namespaces":[{"type":"mount"}]}}`:                                                    "hostname",
		`{` + minimal + `,"mounts":[{"destination":"/a"}],"linux":{"namespaces":[{"type":"mount"}]}}`:                                   "mounts[0].type",
		`{` + minimal + `,"linux":{"personality":{"domain":"X"},"namespaces":[{"type":"mount"}]}}`:                                      "linux.personality",
		`{` + minimal + `,"linux":{"rootfsPropagation":"what","namespaces":[{"type":"mount"}]}}`:                                        "linux.rootfsPropagation",
		`{` + minimal + `,"linux":{"memoryPolicy":{"mode":"X","nodes":"0"},"namespaces":[{"type":"mount"}]}}`:                           "linux.memoryPolicy",
		`{` + minimal + `,"hooks":{"poststop":[{"path":"x"}]},"linux":{"namespaces":[{"type":"mount"}]}}`:                               "hooks.poststop[0].path",
		`{` + minimal + `,"linux":{"sysctl":{"../x":"1"},"namespaces":[{"type":"mount"}]}}`:                                             "linux.sysctl",
		`{` + minimal + `,"linux":{"devices":[{"path":"/d","type":"z"}],"namespaces":[{"type":"mount"}]}}`:                              "linux.devices[0].type",
		`{` + minimal + `,"linux":{"netDevices":{"eth0":{}},"namespaces":[{"type":"mount"}]}}`:                                          `linux.netDevices: no namespace`,
		`{` + minimal + `,"linux":{"netDevices":{"eth/0":{}},"namespaces":[{"type":"mount"},{"type":"network"}]}}`:                      `linux.netDevices`,
		`{` + minimal + `,"linux":{"netDevices":{"a":{"name":"x"},"b":{"name":"x"}},"namespaces":[{"type":"network"}]}}`:                `twice`,
		`{` + minimal + `,"linux":{"timeOffsets":{"monotonic":{"secs":1}},"namespaces":[{"type":"mount"}]}}`:                            `linux.timeOffsets: no new namespace`,
		`{` + minimal + `,"linux":{"timeOffsets":{"realtime":{"secs":1}},"namespaces":[{"type":"time"}]}}`:                              `linux.timeOffsets: clock`,
		`{` + minimal + `,"linux":{"timeOffsets":{"boottime":{"nanosecs":1000000000}},"namespaces":[{"type":"time"}]}}`:                 `linux.timeOffsets.boottime.nanosecs`,
		`{` + minimal + `,"linux":{"timeOffsets":{"boottime":{"secs":1}},"namespaces":[{"type":"time","path":"/x"}]}}`:                  `linux.timeOffsets`,
		`{` + minimal + `,"linux":{"uidMappings":[{"size":1}],"gidMappings":[{"size":1}]}}`:                                             `linux.uidMappings`,
		`{` + minimal + `,"linux":{"sysctl":{"vm.swappiness":"1"},"namespaces":[{"type":"network"}]}}`:                                  `linux.sysctl["vm.swappiness"]`,
		`{` + minimal + `,"linux":{"sysctl":{"net.core.somaxconn":"1"},"namespaces":[{"type":"ipc"}]}}`:                                 `linux.sysctl["net.core.somaxconn"]`,
		`{` + minimal + `,"linux":{"sysctl":{"kernel.msgmax":"1"},"namespaces":[{"type":"network"}]}}`:                                  `linux.sysctl["kernel.msgmax"]`,
		`{` + minimal + `,"linux":{"sysctl":{"kernel.hostname":"x"},"namespaces":[{"type":"uts"}]}}`:                                    `linux.sysctl["kernel.hostname"]`,
		`{` + minimal + `,"linux":{"rootfsPropagation":"unbindable"}}`:                                                                  `linux.rootfsPropagation`,
		`{` + minimal + `,"linux":{"memoryPolicy":{"mode":"MPOL_BIND","nodes":"a"}}}`:                                                   `linux.memoryPolicy.nodes`,
		`{` + minimal + `,"linux":{"memoryPolicy":{"mode":"MPOL_BIND","nodes":"0","flags":["X"]}}}`:                                     `linux.memoryPolicy.flags`,
		`{` + minimal + `,"mounts":[{"destination":"/a","source":"/b","options":["bind","size=1k"]}]}`:                                  `mounts[0].options`,
		`{` + minimal + `,"mounts":[{"destination":"/a","type":"tmpfs","options":["remount","size=1k"]}]}`:                              `mounts[0].options`,
		`{` + minimal + `,"mounts":[{"destination":"","type":"tmpfs"}]}`:                                                                `mounts[0].destination`,
		`{` + minimal + `,"linux":{"maskedPaths":["/a","b"]}}`:                                                                          `linux.maskedPaths[1]`,
		`{` + minimal + `,"linux":{"readonlyPaths":["a"]}}`:                                                                             `linux.readonlyPaths[0]`,
		strings.Replace(`{`+minimal+`}`, `"cwd"`, `"oomScoreAdj":1001,"cwd"`, 1):                                                        `process.oomScoreAdj`,
		strings.Replace(`{`+minimal+`}`, `"cwd"`, `"scheduler":{"policy":"SCHED_OTHER","nice":20},"cwd"`, 1):                            `process.scheduler.nice`,
		`{` + minimal + `,"freebsd":{}}`:                                             `freebsd`,
		`{` + minimal + `,"solaris":{}}`:                                             `solaris`,
		`{` + minimal + `,"windows":{"layerFolders":null}}`:                          `windows`,
		`{` + minimal + `,"vm":{"kernel":{"path":"x"}}}`:                             `vm`,
		`{` + minimal + `,"zos":{}}`:                                                 `zos`,
		`{` + minimal + `,"linux":{"personality":{"domain":"LINUX","flags":["X"]}}}`: `linux.personality.flags`,
		`{` + minimal + `,"linux":{"namespaces":[{"type":"network","path":"rel"}]}}`: `linux.namespaces[0].path`,
		strings.Replace(`{`+minimal+`}`, `"cwd":"/"`, `"cwd":"/","terminal":true},"linux":{"namespaces":[{"type":"mount"}]`, 1): "process.terminal",
	} {
		_, err := decide([]byte(text), plan.Host{ID: "c"})
		if err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) {
			t.Errorf("%s\n%v, want %s", text, err, want)
		}
	}
}

// The cgroup is the container's user's when it is what /sys/fs/cgroup shows, to be written (config-linux.md, "Cgroup
// ownership"), on v2.
func TestDelegate(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mount, spaces string
		unified, want bool
	}{
		{`"source":"cgroup","destination":"/sys/fs/cgroup"`, `{"type":"cgroup"},`, true, true},
		{`"source":"cgroup","destination":"/sys/fs/cgroup","options":["ro"]`, `{"type":"cgroup"},`, true, false},
		{`"source":"cgroup","destination":"/sys/fs/cgroup"`, ``, true, false},
		{`"source":"cgroup","destination":"/cgroup"`, `{"type":"cgroup"},`, true, false},
		{`"source":"cgroup","destination":"/sys/fs/cgroup"`, `{"type":"cgroup"},`, false, false},
	} {
		text := `{` + minimal + `,"mounts":[{"type":"cgroup",` + c.mount + `}],"linux":{"namespaces":[` + c.spaces + `{"type":"mount"}]}}`
		p, err := decide([]byte(text), plan.Host{ID: "c", Unified: c.unified, CgroupPath: "/c", CgroupDirs: map[string]string{"": "/sys/fs/cgroup/c"}})
		if err != nil || p.Delegate != c.want {
			t.Errorf("%s, v2 %v: %v %v", text, c.unified, p, err)
		}
	}
}
