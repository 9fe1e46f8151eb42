package leak_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/berth-runtime/berth/test/e2e/leak"
)

// The checker must see each kind of thing, or a clean result means nothing.
func TestSeesWhatIsLeft(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root to make mounts, links and cgroups")
	}
	dir := t.TempDir()
	opts := leak.Options{Dirs: []string{dir}, Except: []string{filepath.Join(dir, "images")}}
	before, err := leak.Take(opts)
	if err != nil {
		t.Fatal(err)
	}
	for what, c := range map[string][2][]string{
		"process: sleep 86399":     {{"sh", "-c", "sleep 86399 >/dev/null 2>&1 & echo $! >" + dir + "/pid"}, {"sh", "-c", "kill $(cat " + dir + "/pid); rm " + dir + "/pid"}},
		"mount: tmpfs on ":         {{"mount", "-t", "tmpfs", "x", dir}, {"umount", dir}},
		"link: berthleak0":         {{"ip", "link", "add", "berthleak0", "type", "bridge"}, {"ip", "link", "del", "berthleak0"}},
		"nft: table ip berth_leak": {{"nft", "add", "table", "ip", "berth_leak"}, {"nft", "delete", "table", "ip", "berth_leak"}},
		"netns: ":                  {{"ip", "netns", "add", "berth-leak"}, {"ip", "netns", "del", "berth-leak"}},
		"file: " + dir + "/f":      {{"touch", dir + "/f"}, {"rm", dir + "/f"}},
		"cgroup: ":                 {{"mkdir", cgroupDir(t)}, {"rmdir", cgroupDir(t)}},
	} {
		run(t, c[0])
		left, err := leak.Settle(before, opts, 0)
		run(t, c[1])
		if err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(strings.Join(left, "\n"), what) {
			t.Errorf("%q not seen after %q; seen: %q", what, c[0], left)
		}
	}
	left, err := leak.Settle(before, opts, time.Minute)
	if err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}

func cgroupDir(t *testing.T) string {
	for _, d := range []string{"/sys/fs/cgroup/pids", "/sys/fs/cgroup"} {
		var st syscall.Statfs_t
		if syscall.Statfs(d, &st) == nil && (st.Type == 0x27e0eb || st.Type == 0x63677270) {
			return d + "/berth-leak-test"
		}
	}
	t.Fatal("no cgroup hierarchy")
	return ""
}

func run(t *testing.T, argv []string) {
	t.Helper()
	if out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%q: %v: %s", argv, err, out)
	}
}
