package cgroup

import (
	"context"
	"crypto/rand"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestDeviceProgram attaches programs to a cgroup2 directory, which works in
// hybrid mode too, and lets a process born there try the devices.
func TestDeviceProgram(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("needs root: attaches BPF programs")
	}
	l, err := host()
	if err != nil || l.tree(unifiedName) == nil {
		t.Skip("needs a cgroup2 mount")
	}
	dir := l.tree(unifiedName).dir + "/berth-test-" + rand.Text()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		err := removeTree(ctx, dir, time.Now().Add(patience))
		for err != nil && ctx.Err() == nil { // a dead process stays in its group for a moment
			time.Sleep(10 * time.Millisecond)
			err = removeTree(ctx, dir, time.Now().Add(patience))
		}
		if err != nil {
			t.Error(err)
		}
	})
	fd, err := unix.Open(dir, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(fd)
	try := func(script string) error {
		c := exec.Command("/bin/sh", "-c", script)
		c.SysProcAttr = &syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: fd}
		return c.Run()
	}
	attach := func(rules []Device) {
		t.Helper()
		p, err := newPolicy(rules)
		if err != nil {
			t.Fatal(err)
		}
		if err := attachDevices(dir, p.program()); err != nil {
			t.Fatal(err)
		}
		old, err := attachedDevices(fd)
		if err != nil || len(old) != 1 {
			t.Errorf("%d programs attached, %v; want 1", len(old), err)
		}
		for _, p := range old {
			unix.Close(p)
		}
	}
	attach(containerRules())
	if err := try(": >/dev/null && ! (: </dev/zero) 2>/dev/null"); err != nil {
		t.Errorf("container rules: %v", err)
	}
	attach([]Device{{Allow: true}, {Type: "c", Major: ptr[int64](1), Minor: ptr[int64](7), Access: "w"}})
	if err := try(": </dev/zero && : </dev/full && ! (: >/dev/full) 2>/dev/null"); err != nil {
		t.Errorf("rules replaced: %v", err)
	}
}
