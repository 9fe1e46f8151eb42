package launch

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/plan"
)

// What older kernels get makes the same overlay: more layers than their paths fit into a page, id-mapped
// or not. Nothing of it is seen in the mount namespace of the caller.
func TestOverlayByPath(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: mounts overlays")
	}
	ids := []specs.LinuxIDMapping{{HostID: 100000, Size: 65536}}
	for name, maps := range map[string][]specs.LinuxIDMapping{"as they are": nil, "id-mapped": ids} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			s := &plan.Source{Kind: plan.Overlay, Type: "overlay", Path: "overlay", UIDs: maps, GIDs: maps}
			var most int
			for i := range 60 {
				layer := filepath.Join(dir, strings.Repeat("x", 60)+strconv.Itoa(i))
				if err := os.MkdirAll(layer, 0o755); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(layer, "f"+strconv.Itoa(i)), []byte("x"), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := os.Chown(filepath.Join(layer, "f"+strconv.Itoa(i)), i, i); err != nil {
					t.Fatal(err)
				}
				s.Options = append(s.Options, "lowerdir+="+layer)
				most += len(layer)
			}
			if most < os.Getpagesize() {
				t.Fatalf("%d bytes prove nothing", most)
			}
			for _, d := range []string{"upper", "work"} {
				if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
					t.Fatal(err)
				}
			}
			s.Options = append(s.Options, "volatile", "upperdir="+dir+"/upper", "workdir="+dir+"/work")
			o := &opened{maps: &idmaps{made: map[string]*os.File{mapText(ids) + "/" + mapText(ids): userNS(t)}}}
			defer o.close()
			before := mounts(t)
			fd, err := o.byPath(s)
			if err != nil {
				t.Fatal(err)
			}
			defer unix.Close(fd)
			if after := mounts(t); after != before {
				t.Errorf("mounts of the caller were\n%s\nand are\n%s", before, after)
			}
			base := uint32(0)
			if maps != nil {
				base = 100000
			}
			for i := range uint32(60) {
				var st unix.Stat_t
				if err := unix.Fstatat(fd, "f"+strconv.Itoa(int(i)), &st, 0); err != nil || st.Uid != base+i || st.Gid != base+i {
					t.Errorf("file %d: %v, owner %d:%d", i, err, st.Uid, st.Gid)
				}
			}
			f, err := unix.Openat(fd, "new", unix.O_CREAT|unix.O_WRONLY, 0o644)
			if err != nil {
				t.Fatal(err)
			}
			unix.Close(f)
			if _, err := os.Stat(dir + "/upper/new"); err != nil {
				t.Error(err)
			}
		})
	}
}

// userNS is a user namespace that maps 65536 ids from 100000 on.
func userNS(t *testing.T) *os.File {
	t.Helper()
	ids := []syscall.SysProcIDMap{{HostID: 100000, Size: 65536}}
	cmd := exec.Command("sleep", "60")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUSER, UidMappings: ids, GidMappings: ids}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ns, err := os.Open("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/ns/user")
	cmd.Process.Kill()
	cmd.Wait()
	if err != nil {
		t.Fatal(err)
	}
	return ns
}

func mounts(t *testing.T) string {
	t.Helper()
	b, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}
