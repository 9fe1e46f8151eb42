package jail_test

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/jail"
)

// tryEnv has the test program try to do harm to the directory it names, instead of running tests.
const tryEnv = "BERTH_JAIL_TRY"

// parameter of the machine that nobody else here looks at or writes.
const parameter = "vm/stat_interval"

func TestMain(m *testing.M) {
	if dir := os.Getenv(tryEnv); dir != "" {
		os.Exit(try(dir))
	}
	os.Exit(m.Run())
}

// attempts are what a broken runtime may do to a directory of the machine. They are made on one that stands for it.
func attempts(dir string) map[string]func() error {
	file := dir + "/canary"
	create := func(name string) func() error {
		return func() error {
			f, err := os.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err == nil {
				f.Close()
				os.Remove(name)
			}
			return err
		}
	}
	again := func(flags int) func() error {
		return func() error {
			if err := unix.Unshare(flags); err != nil {
				return fmt.Errorf("unshare: %w", err)
			}
			return os.Remove(file)
		}
	}
	mine := fmt.Sprintf("berth-jail-%d-%s", os.Getpid(), filepath.Base(dir))
	return map[string]func() error{
		"write":                func() error { return os.WriteFile(file, []byte("dead"), 0o600) },
		"truncate":             func() error { return os.Truncate(file, 0) },
		"remove":               func() error { return os.Remove(file) },
		"remove all":           func() error { return os.RemoveAll(dir) },
		"rename":               func() error { return os.Rename(file, dir+"/other") },
		"chmod":                func() error { return os.Chmod(file, 0o777) },
		"create":               create(dir + "/new"),
		"create in /":          create("/" + mine),
		"create in /etc":       create("/etc/" + mine),
		"create in /usr":       create("/usr/" + mine),
		"by a magic link":      func() error { return os.Remove("/proc/self/root" + file) },
		"by the first process": func() error { return os.Remove("/proc/1/root" + file) },
		"sysfs":                func() error { return unix.Mkdir("/sys/kernel/"+mine, 0o700) },
		"parameter":            func() error { return os.WriteFile("/proc/sys/"+parameter, []byte("1"), 0) },
		"open sysrq-trigger": func() error { // opened, not written to
			f, err := os.OpenFile("/proc/sysrq-trigger", os.O_WRONLY, 0)
			if errors.Is(err, os.ErrNotExist) { // a kernel without it
				return syscall.EROFS
			}
			if err == nil {
				f.Close()
			}
			return err
		},
		"bind mount": func() error {
			to, err := os.MkdirTemp("", "")
			if err != nil {
				return err
			}
			if err := unix.Mount(dir, to, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
				return err
			}
			return os.Remove(to + "/canary")
		},
		"mount namespace": again(unix.CLONE_NEWNS | unix.CLONE_FS),
	}
}

// try prints what succeeded that must not, and what failed that must work.
func try(dir string) int {
	code := 0
	complain := func(format string, args ...any) { code = 1; fmt.Printf(format+"\n", args...) }
	for name, do := range attempts(dir) {
		if err := do(); !errors.Is(err, syscall.EROFS) {
			complain("%s: %v", name, err)
		}
	}
	for _, d := range []string{"/tmp", "/var/tmp", "/run", "/run/netns", "/var/lib/cni", "/dev/shm"} {
		if err := os.WriteFile(d+"/mine", nil, 0o600); err != nil {
			complain("%v", err)
		}
	}
	if disks, _ := filepath.Glob("/dev/[shv]d[a-z]*"); len(disks) > 0 {
		complain("disks: %v", disks)
	}
	if err := unix.Sethostname([]byte("changed")); err != nil {
		complain("sethostname: %v", err)
	}
	hierarchies, _ := filepath.Glob("/sys/fs/cgroup/*/cgroup.procs")
	for _, h := range append(hierarchies, "/sys/fs/cgroup/cgroup.procs") {
		if _, err := os.Stat(h); err != nil {
			continue
		}
		group := filepath.Join(filepath.Dir(h), "berth-jail-"+filepath.Base(dir))
		if err := os.Mkdir(group, 0o755); err != nil {
			complain("%v", err)
		}
		os.Remove(group)
	}
	if os.Getenv("BERTH_JAIL_PARAMETER") != "" {
		if err := os.WriteFile("/run/procfs/sys/"+parameter, []byte("2"), 0); err != nil { // as by a container's procfs
			complain("%v", err)
		}
	}
	return code
}

// enter makes a canary and tries to kill it from the inside.
func enter(t *testing.T, env ...string) (string, error) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces and mounts")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir, err := os.MkdirTemp(filepath.Dir(self), "canary") // the jail shows its program's directory
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	if err := os.WriteFile(dir+"/canary", []byte("alive"), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command("../../hack/testns.sh", jail.Args("", []string{self})[1:]...)
	cmd.Env = append(append(os.Environ(), tryEnv+"="+dir), env...)
	out, err := cmd.CombinedOutput()
	entries, _ := os.ReadDir(dir)
	text, _ := os.ReadFile(dir + "/canary")
	st, statErr := os.Stat(dir + "/canary")
	if string(text) != "alive" || len(entries) != 1 || statErr != nil || st.Mode() != 0o600 {
		t.Errorf("the canary is dead: %q, %v, %v", text, entries, statErr)
	}
	return string(out), err
}

// Nothing of the machine can be changed from the inside, and what tests need can.
func TestSealed(t *testing.T) {
	name, _ := os.Hostname()
	out, err := enter(t)
	if err != nil {
		t.Errorf("%v\n%s", err, out)
	}
	if now, _ := os.Hostname(); now != name {
		t.Errorf("the machine is called %s now", now)
	}
}

// What a container does by a procfs of its own can't be prevented; it is noticed and undone.
func TestParameters(t *testing.T) {
	before, err := os.ReadFile("/proc/sys/" + parameter)
	if err != nil {
		t.Fatal(err)
	}
	if strings.TrimSpace(string(before)) == "2" {
		t.Skip("the parameter has the test's value")
	}
	out, err := enter(t, "BERTH_JAIL_PARAMETER="+parameter)
	if err == nil || !strings.Contains(out, parameter) {
		t.Errorf("not noticed: %v %s", err, out)
	}
	if after, _ := os.ReadFile("/proc/sys/" + parameter); string(after) != string(before) {
		t.Errorf("%s is %s, was %s", parameter, after, before)
	}
}
