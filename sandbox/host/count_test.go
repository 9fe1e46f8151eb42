package host_test

import (
	"net"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/host"
)

func TestCountProcesses(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	c := host.CountProcesses([]int{os.Getpid(), 1 << 30}, os.Getpid())
	if c.Descriptors < 4 || c.Sockets < 1 || c.Sockets >= c.Descriptors || c.SoftFiles != limit.Cur {
		t.Errorf("counted %+v, soft limit is %d", c, limit.Cur)
	}
	if c := host.CountProcesses([]int{1 << 30}, 1<<30); c != (host.Counts{}) {
		t.Errorf("a process that is not there has %+v", c)
	}
}

func TestDisk(t *testing.T) {
	t.Parallel()
	d, err := host.ReadDisk(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	if d.Bytes == 0 || d.InodesFree > d.Inodes {
		t.Errorf("%+v", d)
	}
	names := host.DeviceNames()
	if n := names(4095, 1); n != "4095:1" {
		t.Errorf("a device that is not there is called %q", n)
	}
	if n := names(d.Major, d.Minor); !strings.Contains(n, "/dev/") && !strings.Contains(n, ":") {
		t.Errorf("the disk is called %q", n)
	}
}
