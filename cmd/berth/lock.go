package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// locks are the files that keep a second daemon from the same directories. The kernel lets go of them when the
// process ends, however it ends (flock(2)).
type locks []*os.File

// Close lets go of them.
func (l locks) Close() error {
	for _, f := range l {
		f.Close()
	}
	return nil
}

// lockDirs makes the root and state directories where missing and takes them for this process.
func lockDirs(c *config) (locks, error) {
	var held locks
	for _, d := range []struct{ path, flag string }{{c.Root, "--root"}, {c.State, "--state"}} {
		f, err := lockDir(d.path)
		var busy heldBy
		switch {
		case errors.As(err, &busy):
			held.Close()
			return nil, fmt.Errorf("%s is in use by another daemon, pid %s: stop that one, or give this one another %s", d.path, string(busy), d.flag)
		case err != nil:
			held.Close()
			return nil, fmt.Errorf("use %s: %w: choose another directory with %s", d.path, err, d.flag)
		}
		held = append(held, f)
	}
	return held, nil
}

// flock takes the lock of f. A daemon that was killed between the fork and the exec of a program leaves its lock with the
// child for that moment, so one that is held is asked for again for a second.
func flock(f *os.File) error {
	for wait := time.Millisecond; ; wait *= 2 {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EWOULDBLOCK) || wait > 512*time.Millisecond {
			return err
		}
		time.Sleep(wait)
	}
}

// heldBy is the pid of the process that holds a lock, "unknown" when it did not say.
type heldBy string

func (h heldBy) Error() string { return "held by " + string(h) }

// lockDir locks the file "lock" in dir, which is made where missing, and writes our pid into it.
func lockDir(dir string) (*os.File, error) {
	if err := os.MkdirAll(dir, 0o711); err != nil {
		return nil, err
	}
	f, err := os.OpenFile(filepath.Join(dir, "lock"), os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	if err := flock(f); err != nil {
		defer f.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return nil, fmt.Errorf("lock %s: %w", f.Name(), err)
		}
		pid, _ := io.ReadAll(io.LimitReader(f, 16))
		if text := strings.TrimSpace(string(pid)); text != "" {
			return nil, heldBy(text)
		}
		return nil, heldBy("unknown")
	}
	err = f.Truncate(0)
	if err == nil {
		_, err = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	if err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}
