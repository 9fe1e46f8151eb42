package apparmor_test

import (
	"bufio"
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/oci/apparmor"
)

const name = "berth-test"

// TestProfileCompiles asks the compiler, which any host may have.
func TestProfileCompiles(t *testing.T) {
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Skip("needs apparmor_parser(8), Debian package apparmor")
	}
	cmd := exec.Command(parser, "--skip-kernel-load", "--skip-cache", "--quiet")
	cmd.Stdin = strings.NewReader(apparmor.Profile(name))
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
}

// TestLoad loads it, twice, and looks at what it does to a process.
func TestLoad(t *testing.T) {
	if !apparmor.Enabled() || os.Geteuid() != 0 {
		t.Skip("needs root and a kernel with AppArmor")
	}
	for range 2 {
		if err := apparmor.Load(context.Background(), name); err != nil {
			if errors.Is(err, errors.ErrUnsupported) {
				t.Skip("needs apparmor_parser(8), Debian package apparmor: ", err)
			}
			t.Fatal(err)
		}
	}
	t.Cleanup(remove)
	if !loaded(t) {
		t.Fatal("the kernel doesn't have the profile")
	}
	dir := t.TempDir()
	for _, c := range []struct {
		cmd     string
		allowed bool
	}{
		{"cat /proc/self/attr/current", true},
		{"echo x >" + dir + "/file && rm " + dir + "/file", true},
		{"cat /proc/self/oom_score_adj >/proc/self/oom_score_adj", true},
		{"cat /proc/sys/kernel/pid_max /sys/class/net/lo/mtu", true},
		{": >/proc/sys/kernel/shmmax", true},
		{"mount -t tmpfs none " + dir + " && umount " + dir, false},
		// Opened for writing, nothing is written.
		{": >/proc/sysrq-trigger", false},
		{": >/proc/sys/kernel/pid_max", false},
		{": >/proc/sys/kernel/core_pattern", false},
		{": >/proc/sys/vm/swappiness", false},
		{": >/proc/irq/default_smp_affinity", false},
		{"head -c1 /proc/kcore", false},
		{": >/sys/kernel/mm/transparent_hugepage/enabled", false},
		{"ls /sys/firmware/", false},
	} {
		// Nothing but the profile must be in the way.
		if out, err := exec.Command("/bin/sh", "-c", c.cmd).CombinedOutput(); err != nil {
			t.Logf("%s: not to be had here: %v: %s", c.cmd, err, out)
			continue
		}
		if out, err := confined(t, c.cmd); (err == nil) != c.allowed {
			t.Errorf("%s: %v, allowed should be %v\n%s", c.cmd, err, c.allowed, out)
		}
	}
}

// confined runs a shell command under the profile: the label is the thread's, for its next exec (aa_change_onexec(3)).
func confined(t *testing.T, cmd string) (string, error) {
	t.Helper()
	type result struct {
		out string
		err error
	}
	done := make(chan result)
	// Ends with the command. The thread is marked for good and must not be used again.
	go func() {
		runtime.LockOSThread()
		attr := "/proc/thread-self/attr/apparmor/exec"
		if err := os.WriteFile(attr, []byte("exec "+name), 0); err != nil {
			done <- result{"", err}
			return
		}
		out, err := exec.Command("/bin/sh", "-c", "exec 2>&1; "+cmd).CombinedOutput()
		done <- result{string(out), err}
	}()
	r := <-done
	return r.out, r.err
}

func loaded(t *testing.T) bool {
	t.Helper()
	f, err := os.Open("/sys/kernel/security/apparmor/profiles")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if s.Text() == name+" (enforce)" {
			return true
		}
	}
	return false
}

func remove() { os.WriteFile("/sys/kernel/security/apparmor/.remove", []byte(name), 0) }
