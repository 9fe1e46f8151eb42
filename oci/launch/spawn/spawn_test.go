package spawn_test

import (
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/spawn"
)

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes namespaces")
	}
}

// TestMain is the program that is executed, too: it says what it finds on the descriptor named by its argument.
func TestMain(m *testing.M) {
	if len(os.Args) == 2 && os.Args[1] == "child" {
		host, _ := os.Readlink("/proc/self/ns/uts")
		os.NewFile(3, "out").WriteString(host)
		if os.Getpid() == 1 {
			os.NewFile(3, "out").WriteString(" one")
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func start(t *testing.T, r *spawn.Request) (string, error) {
	t.Helper()
	needRoot(t)
	exe, err := os.Open("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	defer exe.Close()
	read, write, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer read.Close()
	r.Exe, r.Argv = exe, []string{"x", "child"}
	// the child expects descriptor 3; where the pipe has another number the test can't be made
	if write.Fd() != 3 {
		fd, _ := unix.FcntlInt(write.Fd(), unix.F_DUPFD_CLOEXEC, 3)
		write.Close()
		write = os.NewFile(uintptr(fd), "w")
	}
	r.Keep = []int{int(write.Fd())}
	r.Env = []string{"GOMAXPROCS=1"}
	p, err := spawn.Start(r)
	if err == nil {
		err = p.Await()
	}
	write.Close()
	if err != nil {
		return "", err
	}
	var ws unix.WaitStatus
	unix.Wait4(p.Pid, &ws, 0, nil)
	buf := make([]byte, 100)
	n, _ := read.Read(buf)
	return string(buf[:n]), nil
}

func TestNewNamespaces(t *testing.T) {
	if _, err := start(t, &spawn.Request{New: unix.CLONE_NEWPID | unix.CLONE_NEWUTS | unix.CLONE_NEWNS}); err != nil {
		t.Error(err)
	}
	maps := func(int) error { return nil }
	if _, err := start(t, &spawn.Request{New: unix.CLONE_NEWPID, NewUser: true, Maps: maps}); !errors.Is(err, unix.EINVAL) {
		t.Errorf("user namespace without maps: %v", err)
	}
}

// Whatever goes wrong between clone and exec is told with its step, and no child is left.
func TestErrors(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	stop := errors.New("stop")
	for want, r := range map[string]*spawn.Request{
		"join namespace network": {Join: []spawn.Join{{FD: int(null.Fd()), Kind: unix.CLONE_NEWNET}}},
		"join user namespace":    {User: null},
		"enter cgroup":           {Tasks: []int{int(null.Fd())}}, // open for reading only
		"make namespaces":        {New: 1 << 62},
		"stop":                   {NewUser: true, Maps: func(int) error { return stop }},
	} {
		if _, err := start(t, r); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
	if pid, err := unix.Wait4(-1, nil, unix.WNOHANG, nil); err != unix.ECHILD {
		t.Errorf("a child is left: %d %v", pid, err)
	}
}
