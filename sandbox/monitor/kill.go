package monitor

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Kill ends the monitor of a pod by SIGKILL and returns when it is dead. It is for one that does not answer: what lives below
// it loses the parent that would tell how it ends. A monitor that is dead already is success.
//
// Which process it is can't be asked: the lock is of an open file description (F_OFD_GETLK names no process), the listening
// socket was made by a daemon, and a record could outlive its process. Its command line says it.
func Kill(ctx context.Context, dir string) error {
	for wait := time.Millisecond; ; wait = min(2*wait, 100*time.Millisecond) {
		held, err := Held(dir)
		if err != nil || !held {
			return err
		}
		if err := killAt(dir); err != nil {
			return fmt.Errorf("kill monitor in %s: %w", dir, err)
		}
		select {
		case <-time.After(wait):
		case <-ctx.Done():
			return fmt.Errorf("kill monitor in %s: it lives on: %w", dir, ctx.Err())
		}
	}
}

// killAt kills the processes that were started as the monitor of dir.
func killAt(dir string) error {
	procs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, p := range procs {
		pid, err := strconv.Atoi(filepath.Base(p))
		if err != nil || !isMonitor(p, dir) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if errors.Is(err, unix.ESRCH) {
			continue
		}
		if err != nil {
			return err
		}
		// What the number meant may have changed before it was opened; after that it can't.
		if isMonitor(p, dir) {
			err = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0)
		}
		unix.Close(fd)
		if err != nil && !errors.Is(err, unix.ESRCH) {
			return err
		}
	}
	return nil
}

func isMonitor(proc, dir string) bool {
	b, err := os.ReadFile(proc + "/cmdline")
	if err != nil {
		return false
	}
	args := strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00")
	return len(args) == 3 && args[0] == "berth-monitor" && strings.HasPrefix(args[1], "--oom-score-adj=") && args[2] == dir
}
