package monitor_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// A real OCI runtime does what the stand-in does: containers are adopted, logged, and their exits told, with and without a
// terminal.
func TestRunc(t *testing.T) {
	needRoot(t)
	runc, err := filepath.Abs("../../.cache/peers/runc")
	if cache := os.Getenv("BERTH_CACHE"); cache != "" {
		runc = filepath.Join(cache, "peers/runc")
	}
	if _, missing := os.Stat(runc); err != nil || missing != nil {
		if runc, err = exec.LookPath("runc"); err != nil {
			t.Skip("needs runc: hack/peers.sh runc builds it, Debian has it")
		}
	}
	payload, err := os.ReadFile(bin.oci)
	if err != nil {
		t.Fatal(err)
	}
	m, dir := start(t)
	bundle := filepath.Join(dir, "bundle")
	for _, d := range []string{"bundle/rootfs", "lower/bin", "lower/proc", "lower/dev", "upper", "work"} {
		os.MkdirAll(filepath.Join(dir, d), 0o755)
	}
	os.WriteFile(filepath.Join(dir, "lower", "bin", "payload"), payload, 0o755)
	for _, tty := range []bool{false, true} {
		id := "berth-test-" + filepath.Base(filepath.Dir(dir)) + map[bool]string{false: "-pipe", true: "-tty"}[tty]
		config(t, bundle, tty, id)
		s := spawn(dir, id, 0)
		root := filepath.Join(dir, "state")
		s.Argv = []string{runc, "--root", root, "create", "--bundle", bundle, "--pid-file", s.PidFile}
		want, wantErr := "out\n", "err\n"
		if s.TTY = tty; tty {
			s.ConsoleSocket = "console"
			s.Argv = append(s.Argv, "--console-socket", filepath.Join(dir, "console"))
			want, wantErr = "out\r\nerr\r\n", ""
		}
		// The root file system is mounted where only the runtime sees it; ns.WithMounts makes these.
		s.Path, s.Argv, s.Clone = "/proc/self/exe", append([]string{"berth-monitor: root"}, append(s.Argv, id)...), syscall.CLONE_NEWNS
		s.Env = append(s.Env, "BERTH_MOUNT_0=overlay "+filepath.Join(bundle, "rootfs"), "BERTH_MOUNT_1=option lowerdir+="+filepath.Join(dir, "lower"),
			"BERTH_MOUNT_2=option upperdir="+filepath.Join(dir, "upper"), "BERTH_MOUNT_3=option workdir="+filepath.Join(dir, "work"))
		run(t, m, s)
		t.Cleanup(func() { exec.Command(runc, "--root", root, "delete", "--force", id).Run() })
		if out, err := exec.Command(runc, "--root", root, "start", id).CombinedOutput(); err != nil {
			t.Fatalf("start: %v: %s", err, out)
		}
		if x := waitExit(t, m, id); x.Code != 11 {
			t.Errorf("%+v", x)
		}
		if out, errs := readLog(t, s.Log); out != want || errs != wantErr {
			t.Errorf("log %q %q", out, errs)
		}
		s.ID += "-bad"
		s.Argv = append(s.Argv[:len(s.Argv)-1], s.ID, "too-much")
		if got, _, err := m.Run(t.Context(), s, nil); err == nil || !strings.Contains(got.Stderr, "exactly 1 argument") {
			t.Errorf("%+v %v", got, err)
		}
	}
}

// config writes a bundle's config.json.
func config(t *testing.T, bundle string, tty bool, id string) {
	t.Helper()
	b, err := json.Marshal(map[string]any{
		"ociVersion": "1.0.2",
		"process":    map[string]any{"terminal": tty, "cwd": "/", "args": []string{"/bin/payload", "say", "out\\n", "err\\n", "11"}, "env": []string{"PATH=/bin", "GOMAXPROCS=1"}, "user": map[string]int{"uid": 0, "gid": 0}},
		"root":       map[string]any{"path": "rootfs"},
		"mounts": []any{
			map[string]any{"destination": "/proc", "type": "proc", "source": "proc"},
			map[string]any{"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
			map[string]any{"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []string{"newinstance", "ptmxmode=0666"}},
		},
		"linux": map[string]any{"namespaces": []map[string]string{{"type": "pid"}, {"type": "mount"}, {"type": "ipc"}, {"type": "uts"}}, "cgroupsPath": "/" + id},
	})
	if err == nil {
		err = os.WriteFile(filepath.Join(bundle, "config.json"), b, 0o600)
	}
	if err != nil {
		t.Fatal(err)
	}
}
