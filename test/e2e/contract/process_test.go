package contract

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	utilexec "k8s.io/utils/exec"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

const staging = "gcr.io/k8s-staging-cri-tools/"

// Who a container is: each form of the image's user, and what the request puts over it.
func TestUsers(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("users", n.Dir))
	number := func(v int64) *rt.Int64Value { return &rt.Int64Value{Value: v} }
	for _, c := range []struct {
		name, image string
		change      func(*rt.LinuxContainerSecurityContext)
		want        string
	}{
		{"none", harness.Busybox, nil, "0 0 0"},
		{"uid", staging + "test-image-user-uid:latest", nil, "1002 0 0"},
		{"username", staging + "test-image-user-username:latest", nil, "33 33 33"},
		{"uid-group", staging + "test-image-user-uid-group:latest", nil, "1003 1004 1004"},
		{"username-group", staging + "test-image-user-username-group:latest", nil, "33 1004 1004"},
		{"run-as-user", staging + "test-image-user-username-group:latest", func(s *rt.LinuxContainerSecurityContext) { s.RunAsUser = number(65534) }, "65534 65534 65534"},
		{"unknown-user", harness.Busybox, func(s *rt.LinuxContainerSecurityContext) { s.RunAsUser = number(777) }, "777 0 0"},
		{"run-as-name", harness.Busybox, func(s *rt.LinuxContainerSecurityContext) { s.RunAsUsername = "www-data" }, "33 33 33"},
		{"run-as-group", harness.Busybox, func(s *rt.LinuxContainerSecurityContext) { s.RunAsUser, s.RunAsGroup = number(33), number(7) }, "33 7 7"},
		{"more-groups", harness.Busybox, func(s *rt.LinuxContainerSecurityContext) {
			s.RunAsUser, s.SupplementalGroups = number(33), []int64{50, 40, 50}
		}, "33 33 33 40 50"},
	} {
		cfg := harness.Command(c.name, "sleep 1000")
		cfg.Image.Image = c.image
		if c.change != nil {
			c.change(cfg.Linux.SecurityContext)
		}
		id := p.Start(cfg)
		ids := strings.Fields(n.Exec(t, id, "sh", "-c", "id -u; id -g; id -G"))
		slices.Sort(ids[2:])
		if got := strings.Join(ids, " "); got != c.want {
			t.Errorf("%s: %q, want %q", c.name, got, c.want)
		}
		u := n.Status(t, id).GetUser().GetLinux()
		if told := fmt.Sprint(u.GetUid(), u.GetGid()); told != ids[0]+" "+ids[1] {
			t.Errorf("%s: status tells %s, it is %q", c.name, told, ids)
		}
		// The init is who its status says it is, not only what is exec'ed.
		if got := field(t, n.Exec(t, id, "cat", "/proc/1/status"), "Uid"); !strings.HasPrefix(got, ids[0]+"\t") {
			t.Errorf("%s: the init's uids are %q", c.name, got)
		}
	}
	both := harness.Command("both", "true")
	both.Linux.SecurityContext.RunAsUser, both.Linux.SecurityContext.RunAsUsername = number(1), "root"
	refused(t, n, p, both, "run_as_user")
	alone := harness.Command("alone", "true")
	alone.Linux.SecurityContext.RunAsGroup = number(1)
	refused(t, n, p, alone, "run_as_group")
	nobody := harness.Command("nobody", "true")
	nobody.Linux.SecurityContext.RunAsUsername = "not-in-the-image"
	refused(t, n, p, nobody, "not-in-the-image")
	policy := harness.Command("policy", "true")
	policy.Linux.SecurityContext.SupplementalGroupsPolicy = 7
	refused(t, n, p, policy, "supplemental_groups_policy")
}

// A terminal: one stream, TERM unless it is set, a console, no colours of the runtime's.
func TestTerminal(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("tty", n.Dir))
	start := func(name string, envs ...*rt.KeyValue) string {
		cfg := harness.Command(name, "echo term $TERM; tty; echo err >&2; test -c /dev/console && echo console; sleep 1000")
		cfg.Tty, cfg.Envs = true, envs
		return p.Start(cfg)
	}
	id := start("tty")
	harness.Eventually(t, harness.Patience, "it has spoken", func() bool {
		return p.Log("tty.log", "stdout") == "term xterm\r\n/dev/pts/0\r\nerr\r\nconsole\r\n"
	})
	if got := p.Log("tty.log", "stderr"); got != "" {
		t.Errorf("stderr of a terminal: %q", got)
	}
	if got := n.Exec(t, id, "sh", "-c", "echo $TERM"); got != "xterm\n" {
		t.Errorf("TERM of an exec'ed process: %q", got)
	}
	start("own", &rt.KeyValue{Key: "TERM", Value: []byte("vt52")})
	harness.Eventually(t, harness.Patience, "TERM is the request's", func() bool { return strings.HasPrefix(p.Log("own.log", "stdout"), "term vt52\r\n") })
	plain := p.Start(harness.Command("plain", "sleep 1000"))
	if got := n.Exec(t, plain, "sh", "-c", "echo [$TERM]; readlink /proc/1/fd/0"); got != "[]\n/dev/null\n" {
		t.Errorf("without a terminal: %q", got)
	}
}

// resolv.conf of an empty configuration is empty, and /etc/hosts is the host's where kubelet mounts none.
func TestNameFiles(t *testing.T) {
	n := harness.Get(t)
	cfg := harness.PodConfig("names", n.Dir)
	cfg.DnsConfig = &rt.DNSConfig{}
	p := n.Run(t, cfg)
	id := p.Start(harness.Command("c", "sleep 1000"))
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil {
		t.Fatal(err)
	}
	n.Says(t, id, map[string]string{"cat /etc/resolv.conf": "", "cat /etc/hosts": string(hosts)})
}

// Mounts travel as asked: not at all, from the host, both ways; a link is followed before; write protection of a whole tree.
func TestPropagation(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("propagation", n.Dir)
	pod.Linux.SecurityContext.Privileged = true
	p := n.Run(t, pod)
	dir := filepath.Join(n.Dir, "propagation")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	defer func() {
		for range 10 {
			for _, m := range []string{"PRIVATE", "HOST_TO_CONTAINER", "BIDIRECTIONAL"} {
				for _, d := range []string{"host", "inside", "before"} {
					unix.Unmount(filepath.Join(dir, m, d), unix.MNT_DETACH)
				}
			}
		}
		os.RemoveAll(dir)
	}()
	for _, mode := range []rt.MountPropagation{rt.MountPropagation_PROPAGATION_PRIVATE, rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER, rt.MountPropagation_PROPAGATION_BIDIRECTIONAL} {
		name := strings.TrimPrefix(mode.String(), "PROPAGATION_")
		at := filepath.Join(dir, name)
		for _, d := range []string{"host", "inside", "before"} {
			if err := os.MkdirAll(filepath.Join(at, d), 0o755); err != nil {
				t.Fatal(err)
			}
		}
		link := filepath.Join(dir, name+"-link")
		if err := os.Symlink(at, link); err != nil {
			t.Fatal(err)
		}
		mount := func(d string) {
			t.Helper()
			if err := unix.Mount("test", filepath.Join(at, d), "tmpfs", 0, ""); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(at, d, "mark"), nil, 0o644); err != nil {
				t.Fatal(err)
			}
		}
		mount("before")
		cfg := harness.Command(strings.ToLower(strings.ReplaceAll(name, "_", "-")), "sleep 1000")
		cfg.Linux.SecurityContext.Privileged = true
		cfg.Mounts = []*rt.Mount{{ContainerPath: "/m", HostPath: link, Propagation: mode}}
		id := p.Start(cfg)
		mount("host")
		n.Exec(t, id, "sh", "-c", "mount -t tmpfs test /m/inside && touch /m/inside/mark")
		seen := func(d string) string { return strings.TrimSpace(n.Exec(t, id, "sh", "-c", "ls /m/"+d)) }
		_, err := os.Stat(filepath.Join(at, "inside/mark"))
		if got, want := seen("host") == "mark", mode != rt.MountPropagation_PROPAGATION_PRIVATE; got != want {
			t.Errorf("%s: a mount of the host is seen in the container: %v", name, got)
		}
		if got, want := err == nil, mode == rt.MountPropagation_PROPAGATION_BIDIRECTIONAL; got != want {
			t.Errorf("%s: a mount of the container is seen on the host: %v", name, got)
		}
		if seen("before") != "mark" {
			t.Errorf("%s: a mount that was there before is missing", name)
		}
		if m := n.Status(t, id).Mounts; len(m) != 1 || m[0].Propagation != mode {
			t.Errorf("%s: status tells %v", name, m)
		}
	}
	deep := harness.Command("deep", "sleep 1000")
	before := filepath.Join(dir, "PRIVATE")
	deep.Mounts = []*rt.Mount{{ContainerPath: "/flat", HostPath: before, Readonly: true}, {ContainerPath: "/all", HostPath: before, Readonly: true, RecursiveReadOnly: true}}
	id := p.Start(deep)
	n.Says(t, id, map[string]string{
		"touch /flat/x 2>/dev/null || echo ro":       "ro\n",
		"touch /flat/before/x && echo rw":            "rw\n",
		"touch /all/x 2>/dev/null || echo ro":        "ro\n",
		"touch /all/before/x 2>/dev/null || echo ro": "ro\n",
	})
	if m := n.Status(t, id).Mounts; len(m) != 2 || !m[1].RecursiveReadOnly || m[0].RecursiveReadOnly {
		t.Errorf("status tells %v", m)
	}
	for name, m := range map[string]*rt.Mount{
		"rro-writable":    {RecursiveReadOnly: true},
		"rro-propagation": {RecursiveReadOnly: true, Readonly: true, Propagation: rt.MountPropagation_PROPAGATION_HOST_TO_CONTAINER},
		"option":          {MountOptions: []string{"noexec", "suid"}},
		"option-path":     {MountOptions: []string{"upperdir=/etc"}},
		"one-map":         {UidMappings: []*rt.IDMapping{{Length: 10}}},
		"propagation":     {Propagation: 9},
	} {
		cfg := harness.Command(name, "true")
		m.ContainerPath, m.HostPath = "/m", before
		cfg.Mounts = []*rt.Mount{m}
		refused(t, n, p, cfg, "mounts[0]")
	}
}

// The options of a mount are in force; of two mounts at one path the last counts, and there is one.
func TestMountOptions(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("options", n.Dir))
	dir := filepath.Join(n.Dir, "options")
	for _, d := range []string{"a", "b"} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o777); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, d, "run"), []byte("#!/bin/sh\necho "+d+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	defer os.RemoveAll(dir)
	cfg := harness.Command("c", "sleep 1000")
	a, b := filepath.Join(dir, "a"), filepath.Join(dir, "b")
	cfg.Mounts = []*rt.Mount{{ContainerPath: "/plain", HostPath: a}, {ContainerPath: "/noexec", HostPath: a, MountOptions: []string{"noexec"}},
		{ContainerPath: "/all", HostPath: a, Readonly: true, MountOptions: []string{"nodev", "nosuid", "noexec"}},
		{ContainerPath: "/twice", HostPath: a}, {ContainerPath: "/twice/", HostPath: b}, {ContainerPath: "/dev/shm", HostPath: b}}
	id := p.Start(cfg)
	options := func(at string) string {
		return "awk '$5==\"" + at + "\"{print $6}' /proc/self/mountinfo | tr , '\\n' | grep -E '^(ro|no(exec|dev|suid))$' | sort | tr '\\n' ' '"
	}
	n.Says(t, id, map[string]string{
		"/plain/run": "a\n",
		"/noexec/run 2>/dev/null || echo refused": "refused\n",
		options("/noexec"):                        "noexec ",
		options("/all"):                           "nodev noexec nosuid ro ",
		"/twice/run":                              "b\n",
		"awk '$5==\"/twice\"{print $5}' /proc/self/mountinfo":                "/twice\n",
		"ls /dev/shm; awk '$5==\"/dev/shm\"{print $5}' /proc/self/mountinfo": "run\n/dev/shm\n",
	})
	if m := n.Status(t, id).Mounts; len(m) != 6 || !slices.Equal(m[2].MountOptions, []string{"nodev", "nosuid", "noexec"}) {
		t.Errorf("status tells %v", m)
	}
}

// ReopenContainerLog that fails has made no file and the old one gets what follows; twice is fine; logs outlive their container.
func TestLogFiles(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("logfiles", n.Dir))
	cfg := harness.Command("c", "i=0; while :; do i=$((i+1)); echo $i; sleep 0.05; done")
	cfg.LogPath = "c/0.log"
	id := p.Start(cfg)
	log := filepath.Join(p.Config.LogDirectory, "c/0.log")
	if st, err := os.Stat(log); err != nil || st.Mode().Perm() != 0o640 {
		t.Errorf("log file: %v, %v", st, err)
	}
	ctx := t.Context()
	if err := os.Rename(filepath.Dir(log), filepath.Dir(log)+".away"); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Dir(log), nil, 0o644); err != nil { // a file where the directory was
		t.Fatal(err)
	}
	if err := n.Runtime.ReopenContainerLog(ctx, id); err == nil {
		t.Error("a log was opened below a file")
	}
	if err := os.Remove(filepath.Dir(log)); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(filepath.Dir(log)+".away", filepath.Dir(log)); err != nil {
		t.Fatal(err)
	}
	size := func() int64 {
		st, err := os.Stat(log)
		if err != nil {
			t.Fatal(err)
		}
		return st.Size()
	}
	was := size()
	harness.Eventually(t, harness.Patience, "the old file still grows", func() bool { return size() > was })
	for range 2 {
		if err := n.Runtime.ReopenContainerLog(ctx, id); err != nil {
			t.Errorf("reopen: %v", err)
		}
	}
	lines := strings.Fields(p.Log("c/0.log", "stdout"))
	for i, l := range lines {
		if l != fmt.Sprint(i+1) {
			t.Fatalf("line %d is %q", i+1, l)
		}
	}
	if err := n.Runtime.StopContainer(ctx, id, 0); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(log, log+".1"); err != nil {
		t.Fatal(err)
	}
	if err := n.Runtime.ReopenContainerLog(ctx, id); err == nil {
		t.Error("the log of an ended container was reopened")
	}
	if _, err := os.Stat(log); err == nil {
		t.Error("a refused reopen has made a file")
	}
	if err := n.Runtime.RemoveContainer(ctx, id); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(log + ".1"); err != nil {
		t.Errorf("the log went with its container: %v", err)
	}
	// Without a log path the output is read and dropped: the writer does not wait.
	mute := harness.Command("mute", "head -c 1000000 /dev/zero; exit 5")
	mute.LogPath = ""
	if s := n.Exited(t, p.Start(mute)); s.ExitCode != 5 || s.LogPath != "" {
		t.Errorf("a container without a log: %v", s)
	}
}

// A disk that is full costs log lines, not the container its life.
func TestLogDiskFull(t *testing.T) {
	n := harness.Get(t)
	pod := harness.PodConfig("full", n.Dir)
	if err := os.MkdirAll(pod.LogDirectory, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("full", pod.LogDirectory, "tmpfs", 0, "size=64k"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(pod.LogDirectory, unix.MNT_DETACH)
	p := n.Run(t, pod)
	id := p.Start(harness.Command("c", "head -c 2000000 /dev/zero | tr '\\0' x; echo; touch /tmp/through; while :; do echo later; sleep 0.05; done"))
	harness.Eventually(t, harness.Patience, "it gets through", func() bool {
		_, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"test", "-e", "/tmp/through"}, 0)
		return err == nil
	})
	if err := os.Truncate(filepath.Join(pod.LogDirectory, "c.log"), 0); err != nil {
		t.Fatal(err)
	}
	harness.Eventually(t, harness.Patience, "it is logged again when there is room", func() bool { return strings.Contains(p.Log("c.log", "stdout"), "later") })
}

// ExecSync: much output is cut below what a client takes, and a child that keeps the pipes does not keep the answer.
func TestExecOutput(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("output", n.Dir))
	id := p.Start(harness.Command("c", "sleep 1000"))
	out, errOut, err := n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "head -c 20000000 /dev/zero; head -c 20000000 /dev/zero >&2; exit 3"}, 0)
	var code utilexec.ExitError
	if !errors.As(err, &code) || code.ExitStatus() != 3 {
		t.Errorf("exit: %v", err)
	}
	if sum := len(out) + len(errOut); sum > 16<<20 || sum < 15<<20 {
		t.Errorf("%d and %d bytes", len(out), len(errOut))
	}
	begin := time.Now()
	out, _, err = n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "echo done; sleep 300 &"}, 0)
	if err != nil || string(out) != "done\n" {
		t.Errorf("%q, %v", out, err)
	}
	if d := time.Since(begin); d > 60*time.Second {
		t.Errorf("a child that keeps the pipe kept the answer for %v", d)
	}
	if _, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"sh", "-c", "kill -9 $$"}, 0); !errors.As(err, &code) || code.ExitStatus() != 137 {
		t.Errorf("death by signal: %v", err)
	}
	if _, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"sleep", "100"}, time.Second); err == nil || !strings.Contains(err.Error(), "timed out") {
		t.Errorf("a timeout is not what kubelet knows as one: %v", err)
	}
	if _, _, err := n.Runtime.ExecSync(t.Context(), id, []string{"/no/such"}, 0); err == nil || !strings.Contains(err.Error(), "/no/such") || errors.As(err, &code) {
		t.Errorf("a command that is not there: %v", err)
	}
}
