package ns

import (
	"fmt"
	"os"
	"runtime"

	"golang.org/x/sys/unix"
)

// Attach makes a mount namespace in which there is nothing but a detached mount, at its root, and returns the namespace. It is for
// kernels that don't clone what is attached nowhere (before Linux 6.15): Mounts.Clones takes a clone from it for each program. The
// mount lives as long as that descriptor, or a clone. m can be attached no second time. at is any directory; nothing is seen of
// this there.
func Attach(m *os.File, at string) (*os.File, error) {
	type result struct {
		ns  *os.File
		err error
	}
	c := make(chan result, 1)
	aside(func() {
		ns, err := attach(m, at)
		c <- result{ns, err}
	})
	r := <-c
	if r.err != nil {
		return nil, fmt.Errorf("attach %s: %w", m.Name(), r.err)
	}
	return r.ns, nil
}

// attach does so on a thread that goes afterwards.
func attach(m *os.File, at string) (*os.File, error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, fmt.Errorf("new mount namespace: %w", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return nil, fmt.Errorf("make / private: %w", err)
	}
	ns, err := os.Open("/proc/thread-self/ns/mnt")
	if err != nil {
		return nil, err
	}
	if err := only(int(m.Fd()), at); err != nil {
		ns.Close()
		return nil, err
	}
	return ns, nil
}

// only makes a mount the root, and takes away all that was there, as pivot_root(2) shows it.
func only(m int, at string) error {
	if err := unix.MoveMount(m, "", unix.AT_FDCWD, at, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("move_mount on %s: %w", at, err)
	}
	if err := unix.Fchdir(m); err != nil {
		return fmt.Errorf("enter the mount: %w", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w", err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount what was there: %w", err)
	}
	return nil
}

// aside runs f on a thread that is thrown away afterwards, for what can't be taken back. It does not wait.
func aside(f func()) {
	// ends when f does. It never unlocks its thread, so the runtime throws that away.
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != unix.Getpid() {
			f()
			return
		}
		// The first thread can't end; what is changed in it would be what the process looks like from outside. While it is held
		// here, another goroutine gets another thread.
		done := make(chan struct{})
		// ends as above
		go func() {
			runtime.LockOSThread()
			defer close(done)
			f()
		}()
		<-done
		runtime.UnlockOSThread()
	}()
}
