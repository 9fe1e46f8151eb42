package attack_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

// form is what an image may put in a place where a runtime expects a directory, a device or nothing.
type form struct {
	name string
	make func(path string) error
}

func forms(host string) []form {
	link := func(to string) func(string) error { return func(p string) error { return os.Symlink(to, p) } }
	node := func(mode uint32, major, minor uint32) func(string) error {
		return func(p string) error { return unix.Mknod(p, mode, int(unix.Mkdev(major, minor))) }
	}
	return []form{
		{"absolute", link(host + "/etc")},
		{"climbing", link(strings.Repeat("../", 14) + strings.TrimPrefix(host, "/") + "/etc")},
		{"file-of-host", link(host + "/file")},
		{"absent-on-host", link(host + "/new/dir")},
		{"loop", func(p string) error { return os.Symlink(filepath.Base(p), p) }},
		{"dangling", link("/nowhere/at/all")},
		{"fifo", func(p string) error { return unix.Mkfifo(p, 0o666) }},
		{"socket", node(unix.S_IFSOCK|0o666, 0, 0)},
		{"file", func(p string) error { return os.WriteFile(p, []byte("x"), 0o666) }},
		{"directory", func(p string) error { return os.MkdirAll(p+"/sub", 0o777) }},
		{"device", node(unix.S_IFCHR|0o666, 1, 5)},
		{"magic-root", link("/proc/self/root" + host + "/etc")},
		{"magic-cwd", link("/proc/self/cwd")},
		{"magic-fd", link("/proc/self/fd/5")},
		{"magic-exe", link("/proc/self/exe")},
		{"into-proc", link("/proc/sys")},
		{"trigger", link("/proc/sys/vm/laptop_mode")},
	}
}

// places are where forms are put. Those below dev need the image's own /dev.
func places() []string {
	return []string{"proc", "sys", "dev", "etc", "tmp", "dev/null", "dev/zero", "dev/fd", "dev/ptmx", "dev/pts", "dev/shm", "dev/mqueue", "dev/console",
		"cwd", "vol", "volfile", "tmpfs", "masked", "readonly", "etc/passwd"}
}

// TestHostileRoot puts each form in each place. The container may start or be refused; the host must not change, and what
// the container then has must be what was asked for.
func TestHostileRoot(t *testing.T) {
	t.Parallel()
	for _, place := range places() {
		t.Run(strings.ReplaceAll(place, "/", "_"), func(t *testing.T) {
			t.Parallel()
			w := newWitness(t)
			for _, f := range forms(w.dir) {
				t.Run(f.name, func(t *testing.T) { hostile(t, w, place, f) })
				w.check()
			}
		})
	}
}

func hostile(t *testing.T, w *witness, place string, f form) {
	b := newBox(t)
	if strings.HasPrefix(place, "dev/") {
		b.without("/dev")
	}
	b.write("secret", secret)
	path := b.rootfs + "/" + place
	os.RemoveAll(path)
	if err := f.make(path); err != nil {
		t.Fatal(err)
	}
	vol := t.TempDir()
	os.WriteFile(vol+"/own", nil, 0o666)
	b.mount("/vol", "bind", vol, "bind")
	b.mount("/volfile", "bind", vol+"/own", "bind")
	b.mount("/tmpfs", "tmpfs", "tmpfs", "mode=755")
	b.spec.Process.Cwd = "/cwd"
	b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret", "/masked")
	b.spec.Linux.ReadonlyPaths = append(b.spec.Linux.ReadonlyPaths, "/readonly")
	if s := b.report(append([]string{w.dir + "/secret", "file"}, confined...)...); s != nil {
		b.confined(s)
		if !strings.HasPrefix(s.Cwd, "/") || s.Access[w.dir+"/secret"] != "absent" || s.Access["file"] != "absent" {
			t.Errorf("working directory %s", s.Cwd)
		}
	}
	if text, _ := os.ReadFile(b.rootfs + "/secret"); string(text) != secret {
		t.Errorf("masked file became %q", text)
	}
}

// confined are paths every container of these tests has masked or read-only.
var confined = []string{"/proc/kcore", "/proc/keys", "/proc/timer_list", "/sys/firmware", "/proc/sysrq-trigger", "/proc/sys/kernel/core_pattern",
	"/proc/sys/kernel/modprobe", "/proc/irq/default_smp_affinity", "/secret"}

// confined holds a report to what masked and read-only paths promise.
func (b *box) confined(s *seen.Reach) {
	b.t.Helper()
	if !s.ProcIsProc {
		b.t.Error("/proc is no procfs")
	}
	for _, p := range confined {
		got, known := s.Access[p]
		if !known || got == "absent" {
			continue
		}
		how, _, _ := strings.Cut(got, " ")
		masked := p == "/secret" || p == "/sys/firmware" || strings.HasPrefix(p, "/proc/k") || p == "/proc/timer_list"
		if masked && strings.Contains(how, "r") || strings.Contains(how, "w") && !strings.HasSuffix(got, " 1:3") {
			b.t.Errorf("%s: %s", p, got)
		}
	}
	if len(s.CgroupWrites) > 0 {
		b.t.Errorf("cgroups can be made: %v", s.CgroupWrites)
	}
}

// A link at the place where procfs goes must not get procfs put elsewhere, with masks on a directory of the image's
// (CVE-2019-19921, CVE-2023-27561).
func TestProcElsewhere(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"/other", "other", "/other/../other", "/etc/../other"} {
		b := newBox(t)
		os.Remove(b.rootfs + "/proc")
		os.MkdirAll(b.rootfs+"/other/sys/kernel", 0o755)
		os.Symlink(to, b.rootfs+"/proc")
		b.write("other/kcore", "fake")
		s := b.report(append([]string{"/other/kcore", "/other/sysrq-trigger", "/other/sys/kernel/core_pattern"}, confined...)...)
		if s == nil {
			continue
		}
		b.confined(s)
		for p, how := range s.Access {
			if strings.HasPrefix(p, "/other") && strings.Contains(strings.Fields(how + " x")[0], "w") && !strings.HasSuffix(how, " 1:3") {
				t.Errorf("-> %s: %s is %s", to, p, how)
			}
		}
	}
}

// A mount that goes by the image's link over a part of procfs gives the image the files that the runtime writes: labels,
// parameters (CVE-2019-16884, CVE-2025-52881). The runtime's writes must not end up in them, and what it says it has set must be set.
func TestProcRedirect(t *testing.T) {
	t.Parallel()
	for _, to := range []string{"/proc/sys/net/ipv4", "/proc/sys", "/proc/self/attr", "/proc/1", "/proc", "/proc/thread-self", "/proc/self"} {
		t.Run(strings.ReplaceAll(to[1:], "/", "_"), func(t *testing.T) {
			b := newBox(t, "report")
			fake := t.TempDir()
			for _, f := range []string{"ip_forward", "net/ipv4/ip_forward", "exec", "attr/exec", "self/attr/exec", "sys/net/ipv4/ip_forward",
				"attr/apparmor/exec", "oom_score_adj", "setgroups", "self/oom_score_adj"} {
				os.MkdirAll(filepath.Dir(fake+"/"+f), 0o755)
				os.WriteFile(fake+"/"+f, []byte("untouched\n"), 0o666)
			}
			os.Symlink(to, b.rootfs+"/redirect")
			b.mount("/redirect", "bind", fake, "bind")
			b.spec.Linux.Sysctl = map[string]string{"net.ipv4.ip_forward": "1"}
			score := 300
			b.spec.Process.OOMScoreAdj = &score
			s := b.report("/proc/sys/net/ipv4/ip_forward")
			filepath.WalkDir(fake, func(p string, d os.DirEntry, _ error) error {
				if text, err := os.ReadFile(p); err == nil && string(text) != "untouched\n" {
					t.Errorf("the runtime wrote %q to the image's %s", text, p)
				}
				return nil
			})
			if s != nil && !s.ProcIsProc {
				t.Error("procfs is covered")
			}
		})
	}
}

// Without a procfs in the config, labels would be written to whatever the image has at /proc.
func TestLabelToImage(t *testing.T) {
	t.Parallel()
	for name, set := range map[string]func(*box){
		"apparmor": func(b *box) { b.spec.Process.ApparmorProfile = "confined" },
		"selinux":  func(b *box) { b.spec.Process.SelinuxLabel = "system_u:system_r:container_t:s0" },
	} {
		t.Run(name, func(t *testing.T) {
			b := newBox(t, "exit", "0").without("/proc")
			b.spec.Linux.MaskedPaths, b.spec.Linux.ReadonlyPaths = nil, nil
			for _, f := range []string{"self/attr/exec", "thread-self/attr/exec", "self/attr/apparmor/exec", "thread-self/attr/apparmor/exec"} {
				os.MkdirAll(filepath.Dir(b.rootfs+"/proc/"+f), 0o755)
				b.write("proc/"+f, "")
			}
			set(b)
			if r := b.run(); r.code == 0 && lsm(name) == "" {
				t.Error("a label that can't be in force was accepted")
			}
			filepath.WalkDir(b.rootfs+"/proc", func(p string, d os.DirEntry, _ error) error {
				if text, err := os.ReadFile(p); err == nil && len(text) > 0 {
					t.Errorf("label written to the image: %q in %s", text, p)
				}
				return nil
			})
		})
	}
}

// lsm tells where the kernel shows a security module, "" when it has none of that name.
func lsm(name string) string {
	text, _ := os.ReadFile("/sys/kernel/security/lsm")
	if strings.Contains(string(text), name) {
		return "/sys/kernel/security"
	}
	return ""
}

// Masks made with the image's /dev/null (CVE-2025-31133): a link, and the mask is a writable bind of what it points to;
// a file, and what is written through the mask stays.
func TestMaskWithOwnNull(t *testing.T) {
	t.Parallel()
	w := newWitness(t)
	for _, f := range forms(w.dir) {
		t.Run(f.name, func(t *testing.T) {
			b := newBox(t).without("/dev")
			b.write("secret", secret)
			b.write("target", "")
			os.Remove(b.rootfs + "/dev/null")
			if err := f.make(b.rootfs + "/dev/null"); err != nil {
				t.Fatal(err)
			}
			b.spec.Linux.MaskedPaths = append(b.spec.Linux.MaskedPaths, "/secret", "/target")
			if s := b.report(append([]string{"/target"}, confined...)...); s != nil {
				b.confined(s)
				if how := s.Access["/target"]; !strings.HasSuffix(how, " 1:3") {
					t.Errorf("/target is masked with %s", how)
				}
			}
		})
	}
	w.check()
}
