package netplugin_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/test/bundle"
)

const podID = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"

// rig is a Manager whose plugins are shell scripts that write down how they were called.
type rig struct {
	t              *testing.T
	m              *netplugin.Manager
	conf, bin, log string
	cache          string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	dir := t.TempDir()
	r := &rig{t: t, conf: filepath.Join(dir, "net.d"), bin: filepath.Join(dir, "bin"), log: filepath.Join(dir, "log"), cache: filepath.Join(dir, "cache")}
	for _, d := range []string{r.conf, r.bin, r.log} {
		if err := os.Mkdir(d, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	r.open()
	return r
}

// open makes the Manager, as a daemon does that starts again.
func (r *rig) open() {
	r.t.Helper()
	m, err := netplugin.New(netplugin.Options{ConfDir: r.conf, BinDirs: []string{r.bin}, CacheDir: r.cache})
	if err != nil {
		r.t.Fatal(err)
	}
	r.m = m
}

const answer = `{"cniVersion":"1.0.0","interfaces":[{"name":"br"},{"name":"eth0","sandbox":"/x"}],` +
	`"ips":[{"interface":1,"address":"fd00::2/64"},{"interface":1,"address":"10.9.0.2/24"}]}`

// plugin installs a script: it records command, environment and stdin, then runs body.
func (r *rig) plugin(name, body string) {
	r.t.Helper()
	script := fmt.Sprintf(`#!/bin/sh
log=%s
n=$(ls $log | wc -l)
cat > $log/$n.stdin.tmp; echo "%s $CNI_COMMAND $CNI_CONTAINERID netns=$CNI_NETNS if=$CNI_IFNAME args=$CNI_ARGS" >> $log.txt
mv $log/$n.stdin.tmp $log/$n.%s.$CNI_COMMAND
%s
`, r.log, name, name, body)
	if err := bundle.Executable(filepath.Join(r.bin, name), script); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) conflist(file, version, plugins string) {
	r.t.Helper()
	text := fmt.Sprintf(`{"cniVersion":%q,"name":"net","plugins":[%s]}`, version, plugins)
	if err := os.WriteFile(filepath.Join(r.conf, file), []byte(text), 0o644); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) calls() []string {
	r.t.Helper()
	b, err := os.ReadFile(r.log + ".txt")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		r.t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(b)), "\n")
}

func (r *rig) commands() string {
	var out []string
	for _, c := range r.calls() {
		f := strings.Fields(c)
		out = append(out, f[0]+" "+f[1])
	}
	return strings.Join(out, ", ")
}

// when calls f once a file holds a line. It ends then, or with the context.
func when(ctx context.Context, file string, f func()) {
	for ; ctx.Err() == nil; time.Sleep(10 * time.Millisecond) {
		if b, _ := os.ReadFile(file); strings.HasSuffix(string(b), "\n") {
			f()
			return
		}
	}
}

// stdin is what the last call of a plugin with a command was told.
func (r *rig) stdin(plugin, command string) string {
	r.t.Helper()
	files, _ := filepath.Glob(filepath.Join(r.log, "*."+plugin+"."+command))
	if len(files) == 0 {
		r.t.Fatalf("%s was not called with %s", plugin, command)
	}
	b, err := os.ReadFile(files[len(files)-1])
	if err != nil {
		r.t.Fatal(err)
	}
	return string(b)
}

func (r *rig) hasRecord() bool {
	_, err := os.Stat(filepath.Join(r.cache, podID+".json"))
	return err == nil
}

func pod() netplugin.Pod {
	return netplugin.Pod{
		ID: podID, Name: "web", Namespace: "default", UID: "u1", NetNS: "/proc/self/ns/net",
		Ports:     []netplugin.Port{{HostPort: 80, ContainerPort: 8080, Protocol: "tcp", HostIP: "127.0.0.1"}, {ContainerPort: 9, Protocol: "udp"}},
		IngressBW: 1e15, DNSServers: []string{"10.0.0.10"}, CgroupPath: "/kubepods/x", Annotations: map[string]string{"a": "b"},
	}
}

const okAdd = `[ $CNI_COMMAND = ADD ] && echo '` + answer + `'; exit 0`

func TestAttach(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.plugin("two", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"},{"type":"two","capabilities":{"portMappings":true,"bandwidth":true,"dns":true,"cgroupPath":true,"io.kubernetes.cri.pod-annotations":true}}`)
	res, err := r.m.Attach(t.Context(), pod())
	if err != nil {
		t.Fatal(err)
	}
	if want := []netip.Addr{netip.MustParseAddr("10.9.0.2"), netip.MustParseAddr("fd00::2")}; !slices.Equal(res.IPs, want) || res.Interface != "eth0" {
		t.Errorf("result %v on %s, want %v on eth0", res.IPs, res.Interface, want)
	}
	if string(r.m.Result(podID)) != string(res.Raw) {
		t.Errorf("recorded result %s, want %s", r.m.Result(podID), res.Raw)
	}
	want := "one ADD " + podID + " netns=/proc/self/ns/net if=eth0 args=IgnoreUnknown=1;K8S_POD_NAMESPACE=default;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID=" + podID + ";K8S_POD_UID=u1"
	if got := r.calls()[0]; got != want {
		t.Errorf("called\n%s\nwant\n%s", got, want)
	}
	var one, two struct{ RuntimeConfig json.RawMessage }
	if err := errors.Join(json.Unmarshal([]byte(r.stdin("one", "ADD")), &one), json.Unmarshal([]byte(r.stdin("two", "ADD")), &two)); err != nil {
		t.Fatal(err)
	}
	if one.RuntimeConfig != nil {
		t.Errorf("plugin without capabilities got %s", one.RuntimeConfig)
	}
	caps := `{"bandwidth":{"ingressRate":1000000000000000,"ingressBurst":34359738359},"cgroupPath":"/kubepods/x","dns":{"servers":["10.0.0.10"]},` +
		`"io.kubernetes.cri.pod-annotations":{"a":"b"},"portMappings":[{"hostPort":80,"containerPort":8080,"protocol":"tcp","hostIP":"127.0.0.1"}]}`
	if string(two.RuntimeConfig) != caps {
		t.Errorf("capabilities\n%s\nwant\n%s", two.RuntimeConfig, caps)
	}
}

func TestDetachFromTheRecordAlone(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one","mark":"old"}`)
	if _, err := r.m.Attach(t.Context(), pod()); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(r.conf); err != nil {
		t.Fatal(err)
	}
	r.open()
	for range 2 {
		if err := r.m.Detach(t.Context(), podID, ""); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.commands(); got != "one ADD, one DEL" {
		t.Errorf("calls: %s", got)
	}
	in := r.stdin("one", "DEL")
	if !strings.Contains(in, `"mark":"old"`) || !strings.Contains(in, `"prevResult"`) || !strings.Contains(in, "10.9.0.2") {
		t.Errorf("DEL was told %s", in)
	}
	if !strings.Contains(r.calls()[1], " netns= if=eth0") {
		t.Errorf("DEL called as %s, want an empty namespace", r.calls()[1])
	}
	if r.hasRecord() {
		t.Error("record left")
	}
}

func TestDetachAfterReboot(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	if _, err := r.m.Attach(t.Context(), pod()); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(r.cache, podID+".json")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var rec map[string]any
	if err := json.Unmarshal(b, &rec); err != nil {
		t.Fatal(err)
	}
	rec["boot"] = "another"
	b, _ = json.Marshal(rec)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	// The path exists and is a namespace, but not the pod's.
	if err := r.m.Detach(t.Context(), podID, "/proc/self/ns/net"); err != nil {
		t.Fatal(err)
	}
	if last := r.calls()[1]; !strings.Contains(last, "DEL") || !strings.Contains(last, " netns= ") {
		t.Errorf("called %s", last)
	}
}

func TestDetachDamagedRecord(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	if err := os.WriteFile(filepath.Join(r.cache, podID+".json"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := r.m.Detach(t.Context(), podID, ""); err != nil {
		t.Fatal(err)
	}
	if r.commands() != "one DEL" || r.hasRecord() {
		t.Errorf("calls: %s; record left: %v", r.commands(), r.hasRecord())
	}
}

func TestAttachFailures(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		body, want, calls string
		left              bool // the record
	}{
		"fails":         {`[ $CNI_COMMAND = ADD ] && { echo '{"code":100,"msg":"no luck"}'; exit 1; }; exit 0`, "exec one: exit status 1: no luck", "one ADD, one DEL", false},
		"junk":          {`[ $CNI_COMMAND = ADD ] && echo hello; exit 0`, "invalid character", "one ADD, one DEL", false},
		"says nothing":  {`[ $CNI_COMMAND = ADD ] && exit 3; exit 0`, "exit status 3: no error message", "one ADD, one DEL", false},
		"stderr":        {`[ $CNI_COMMAND = ADD ] && { echo oops >&2; exit 3; }; exit 0`, `exit status 3: "oops"`, "one ADD, one DEL", false},
		"no address":    {`[ $CNI_COMMAND = ADD ] && echo '{"cniVersion":"1.0.0"}'; exit 0`, "no address in the result", "one ADD, one DEL", false},
		"too much":      {`[ $CNI_COMMAND = ADD ] && yes; exit 0`, "", "one ADD, one DEL", false},
		"DEL fails too": {`exit 1`, "detach network net", "one ADD, one DEL", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig(t)
			r.plugin("one", c.body)
			r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if name == "too much" {
				go when(ctx, r.log+".txt", func() { time.AfterFunc(time.Second, cancel) }) // it never ends
			}
			_, err := r.m.Attach(ctx, pod())
			if err == nil || !strings.Contains(err.Error(), c.want) || !strings.Contains(err.Error(), "attach network net: ") {
				t.Errorf("error %v, want one that contains %q", err, c.want)
			}
			if r.commands() != c.calls || r.hasRecord() != c.left {
				t.Errorf("calls: %s; record left: %v", r.commands(), r.hasRecord())
			}
		})
	}
}

func TestDetachIsRetried(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", `[ $CNI_COMMAND = DEL ] && [ ! -e $log.once ] && { touch $log.once; exit 1; }; `+okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	if _, err := r.m.Attach(t.Context(), pod()); err != nil {
		t.Fatal(err)
	}
	if err := r.m.Detach(t.Context(), podID, ""); err == nil || !r.hasRecord() {
		t.Fatalf("error %v, record there: %v", err, r.hasRecord())
	}
	if err := r.m.Detach(t.Context(), podID, ""); err != nil || r.hasRecord() {
		t.Errorf("error %v, record there: %v", err, r.hasRecord())
	}
}

func TestHangingPluginIsKilledWithItsChildren(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", `[ $CNI_COMMAND = ADD ] && { sleep 1000 & echo $! > $log.pid; wait; }; exit 0`)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go when(ctx, r.log+".pid", cancel) // the plugin has its child
	if _, err := r.m.Attach(ctx, pod()); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	if r.commands() != "one ADD, one DEL" || r.hasRecord() {
		t.Errorf("calls: %s; record left: %v", r.commands(), r.hasRecord())
	}
	pid, _ := os.ReadFile(r.log + ".pid")
	for end := time.Now().Add(time.Minute); ; time.Sleep(10 * time.Millisecond) {
		stat, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		if err != nil || strings.Contains(string(stat), ") Z ") {
			break
		}
		if time.Now().After(end) {
			t.Fatalf("the plugin's child lives: %s", stat)
		}
	}
}

func TestProgramThatIsBeingReplaced(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	f, err := os.OpenFile(filepath.Join(r.bin, "one"), os.O_WRONLY, 0) // ETXTBSY as long as it is open
	if err != nil {
		t.Fatal(err)
	}
	time.AfterFunc(150*time.Millisecond, func() { f.Close() })
	if _, err := r.m.Attach(t.Context(), pod()); err != nil {
		t.Error(err)
	}
}

func TestMissingProgramIsFoundBeforeAnyRuns(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"},{"type":"absent"}`)
	_, err := r.m.Attach(t.Context(), pod())
	if !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "plugin absent") || len(r.calls()) != 0 || r.hasRecord() {
		t.Errorf("error %v, calls %s, record %v", err, r.commands(), r.hasRecord())
	}
	if err := r.m.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "plugin absent") {
		t.Errorf("status: %v", err)
	}
}

func TestAttachAgainGivesBackFirst(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	for range 2 {
		if _, err := r.m.Attach(t.Context(), pod()); err != nil {
			t.Fatal(err)
		}
	}
	if got := r.commands(); got != "one ADD, one DEL, one ADD" {
		t.Errorf("calls: %s", got)
	}
}

func TestStatusFollowsTheDirectory(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	expect := func(name, why string) {
		t.Helper()
		err := r.m.Status(t.Context())
		if got := r.m.Config(); got != name {
			t.Errorf("network %q, want %q", got, name)
		}
		if why == "" && err != nil || why != "" && (err == nil || !strings.Contains(err.Error(), why)) {
			t.Errorf("status %v, want %q", err, why)
		}
	}
	expect("", "no network configuration in "+r.conf)
	if err := os.RemoveAll(r.conf); err != nil {
		t.Fatal(err)
	}
	expect("", "no network configuration")
	if err := os.Mkdir(r.conf, 0o755); err != nil {
		t.Fatal(err)
	}
	write := func(file, text string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(r.conf, file), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("90-z.conf", `{"cniVersion":"0.4.0","name":"single","type":"one"}`)
	expect("single", "")
	write("50-b.conflist", `{"cniVersion":"9.0.0","name":"future","plugins":[{"type":"one"}]}`)
	expect("single", "")
	write("20-a.conflist", `{ broken`)
	write("30-a.conflist", `{"cniVersion":"1.0.0","name":"empty","plugins":[]}`)
	write("10-a.txt", `{"cniVersion":"1.0.0","name":"other","plugins":[{"type":"one"}]}`)
	expect("single", "")
	write("40-a.conflist", `{"cniVersion":"1.0.0","name":"list","plugins":[{"type":"one"}]}`)
	expect("list", "")
	if err := os.Remove(filepath.Join(r.conf, "40-a.conflist")); err != nil {
		t.Fatal(err)
	}
	expect("single", "")
	if err := os.Remove(filepath.Join(r.conf, "90-z.conf")); err != nil {
		t.Fatal(err)
	}
	expect("", "20-a.conflist: ")
}

func TestStatusVerb(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", `[ $CNI_COMMAND = STATUS ] && { echo '{"cniVersion":"1.1.0","code":50,"msg":"no uplink"}'; exit 1; }; exit 0`)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	if err := r.m.Status(t.Context()); err != nil {
		t.Errorf("1.0 has no STATUS: %v", err)
	}
	r.conflist("10-a.conflist", "1.1.0", `{"type":"one"}`)
	if err := r.m.Status(t.Context()); err == nil || !strings.Contains(err.Error(), "no uplink") {
		t.Errorf("status %v, want the plugin's reason", err)
	}
}

func TestCollect(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.1.0", `{"type":"one"}`)
	keep := pod()
	keep.ID = strings.Repeat("f", 64)
	for _, p := range []netplugin.Pod{pod(), keep} {
		if _, err := r.m.Attach(t.Context(), p); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.m.Collect(t.Context(), func(id string) bool { return id == keep.ID }); err != nil {
		t.Fatal(err)
	}
	if got := r.commands(); got != "one ADD, one ADD, one DEL, one GC" {
		t.Errorf("calls: %s", got)
	}
	if in := r.stdin("one", "GC"); !strings.Contains(in, keep.ID) || strings.Contains(in, podID) || !strings.Contains(in, "cni.dev/valid-attachments") {
		t.Errorf("GC was told %s", in)
	}
	if r.hasRecord() {
		t.Error("record left")
	}
}

func TestOnePodAtATime(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", `[ -e $log.busy ] && { touch $log.clash; }; touch $log.busy; sleep 0.05; rm -f $log.busy; `+okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	var wg sync.WaitGroup
	for i := range 6 {
		wg.Go(func() {
			var err error
			if i%2 == 0 {
				_, err = r.m.Attach(t.Context(), pod())
			} else {
				err = r.m.Detach(t.Context(), podID, "")
			}
			if err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if _, err := os.Stat(r.log + ".clash"); err == nil {
		t.Error("two plugins ran for one pod at once")
	}
}

func TestBadPodID(t *testing.T) {
	t.Parallel()
	r := newRig(t)
	r.plugin("one", okAdd)
	r.conflist("10-a.conflist", "1.0.0", `{"type":"one"}`)
	for _, id := range []string{"", "../x", ".x"} {
		p := pod()
		p.ID = id
		if _, err := r.m.Attach(t.Context(), p); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("attach %q: %v", id, err)
		}
	}
}
