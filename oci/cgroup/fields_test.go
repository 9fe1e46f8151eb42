package cgroup

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// everything is a LinuxResources document with each field set, devices excepted.
const everything = `{"memory":{"limit":100,"reservation":50,"swap":150,"kernel":7,"kernelTCP":8,"swappiness":9,"disableOOMKiller":true,
"useHierarchy":true,"checkBeforeUpdate":true},"cpu":{"shares":512,"quota":1000,"burst":10,"period":5000,"realtimeRuntime":3,"realtimePeriod":4,
"cpus":"0","mems":"0","idle":0},"pids":{"limit":5},"blockIO":{"weight":20,"leafWeight":21,
"weightDevice":[{"major":1,"minor":2,"weight":22,"leafWeight":23}],"throttleReadBpsDevice":[{"major":1,"minor":2,"rate":31}],
"throttleWriteBpsDevice":[{"major":1,"minor":2,"rate":32}],"throttleReadIOPSDevice":[{"major":1,"minor":2,"rate":33}],
"throttleWriteIOPSDevice":[{"major":1,"minor":2,"rate":34}]},"hugepageLimits":[{"pageSize":"2MB","limit":64}],
"network":{"classID":65,"priorities":[{"name":"eth0","priority":66}]},"rdma":{"mlx":{"hcaHandles":67,"hcaObjects":68}},"unified":{"cgroup.freeze":"0"}}`

func document(t *testing.T, text string) *Resources {
	t.Helper()
	r := new(Resources)
	if err := json.Unmarshal([]byte(text), r); err != nil {
		t.Fatal(err)
	}
	return r
}

// Each field of the resources ends up in a file: all of them are set, and all writes are seen.
func TestResourceFiles(t *testing.T) {
	t.Parallel()
	r := document(t, everything)
	unset(t, "", reflect.ValueOf(r).Elem())
	k := kernel{v1: []string{"cpu", "cpuset", "memory", "pids", "blkio", "net_cls", "net_prio", "hugetlb", "rdma"}, v2: []string{unifiedName},
		files: map[string]string{"blkio.weight": "100", "memory.memsw.limit_in_bytes": noLimitV1}}
	got, err := k.plan(r)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"cpu.idle=0", "cpu.shares=512", "cpu.rt_period_us=4", "cpu.rt_runtime_us=3", "cpu.cfs_period_us=5000", "cpu.cfs_quota_us=1000",
		"cpu.cfs_burst_us=10", "cpuset.cpus=0", "cpuset.mems=0", "memory.limit_in_bytes=100", "memory.memsw.limit_in_bytes=150",
		"memory.soft_limit_in_bytes=50", "memory.kmem.limit_in_bytes=7", "memory.kmem.tcp.limit_in_bytes=8", "memory.use_hierarchy=1", "memory.oom_control=1", "memory.swappiness=9",
		"pids.max=5", "blkio.weight=20", "blkio.leaf_weight=21", "blkio.weight_device=1:2 22", "blkio.leaf_weight_device=1:2 23",
		"blkio.throttle.read_bps_device=1:2 31", "blkio.throttle.write_bps_device=1:2 32", "blkio.throttle.read_iops_device=1:2 33",
		"blkio.throttle.write_iops_device=1:2 34", "hugetlb.2MB.limit_in_bytes=64", "hugetlb.2MB.rsvd.limit_in_bytes=64", "net_cls.classid=65",
		"net_prio.ifpriomap=eth0 66", "rdma.max=mlx hca_handle=67 hca_object=68", "cgroup.freeze=0"} {
		i := slices.Index(got, want)
		if i < 0 {
			t.Errorf("%s is not written", want)
			continue
		}
		got = slices.Delete(got, i, i+1)
	}
	if len(got) > 0 {
		t.Errorf("more is written: %v", got)
	}
	k.files["memory.usage_in_bytes"] = "101"
	if _, err := k.plan(r); err == nil || !strings.Contains(err.Error(), "101 bytes are in use") {
		t.Errorf("checkBeforeUpdate: %v", err)
	}
}

// unset finds fields that the document forgot.
func unset(t *testing.T, path string, v reflect.Value) {
	for v.Kind() == reflect.Pointer && !v.IsNil() {
		v = v.Elem()
	}
	switch v.Kind() {
	case reflect.Struct:
		for i := range v.NumField() {
			if name := v.Type().Field(i).Name; name != "Devices" && name != "Idle" {
				unset(t, path+"."+name, v.Field(i))
			}
		}
	case reflect.Slice:
		for i := range v.Len() {
			unset(t, path, v.Index(i))
		}
		fallthrough
	default:
		if v.IsZero() {
			t.Errorf("%s is not in the document", path)
		}
	}
}

// What v2 has not got is refused by name, each on its own; what only says what holds is not.
func TestUnsupportedV2(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`{"memory":{"swappiness":10}}`:                                         "swappiness",
		`{"memory":{"disableOOMKiller":true}}`:                                 "OOM killer",
		`{"memory":{"kernelTCP":10}}`:                                          "kernel TCP",
		`{"memory":{"kernel":10}}`:                                             "kernel memory",
		`{"memory":{"useHierarchy":false}}`:                                    "without hierarchy",
		`{"cpu":{"realtimeRuntime":10}}`:                                       "realtime",
		`{"cpu":{"realtimePeriod":10}}`:                                        "realtime",
		`{"blockIO":{"leafWeight":10}}`:                                        "leaf weight",
		`{"blockIO":{"weightDevice":[{"major":8,"minor":1,"leafWeight":10}]}}`: "leaf weight of 8:1",
		`{"memory":{"swappiness":18446744073709551615,"disableOOMKiller":false,"kernel":-1,"kernelTCP":-1,"useHierarchy":true}}`: "",
	} {
		_, err := unified(nil).plan(document(t, text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want) || !errors.Is(err, errors.ErrUnsupported)) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	// net_cls and net_prio are controllers that no v2 hierarchy has: the write is what says so, with the file's name.
	got, err := unified(nil).plan(document(t, `{"network":{"classID":1,"priorities":[{"name":"a","priority":2}]}}`))
	if err != nil || strings.Join(got, " ") != "net_cls.classid=1 net_prio.ifpriomap=a 2" {
		t.Errorf("%v %v", got, err)
	}
}

// A directory of the cgroup2 tree, which hybrid hosts have as well, and the kernel's own list of files.
func TestDelegate(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes cgroups")
	}
	l, err := host()
	if err != nil || l.tree(unifiedName) == nil {
		t.Skip("needs a cgroup2 mount")
	}
	dir := l.tree(unifiedName).dir + "/berth-test-" + rand.Text()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.Remove(dir) })
	for _, list := range []string{"/sys/kernel/cgroup/delegate", "/absent"} {
		os.Chown(dir+"/cgroup.procs", 0, 0)
		if err := delegate(dir, list, 1234); err != nil {
			t.Fatal(err)
		}
		for name, want := range map[string]uint32{"": 1234, "/cgroup.procs": 1234, "/cgroup.subtree_control": 1234, "/cgroup.threads": 1234,
			"/cgroup.max.descendants": 0, "/cgroup.freeze": 0} {
			var st unix.Stat_t
			if err := unix.Stat(dir+name, &st); err == nil && st.Uid != want {
				t.Errorf("%s with %s: owner %d, want %d", name, list, st.Uid, want)
			}
		}
	}
}
