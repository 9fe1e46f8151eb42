package ns_test

import (
	"os"
	"runtime"
	"strconv"

	"golang.org/x/sys/unix"
)

// enter moves the goroutine's thread, which it keeps, into a network namespace.
func enter(path string) {
	runtime.LockOSThread()
	f, err := os.Open(path)
	if err != nil {
		panic(err)
	}
	defer f.Close()
	if err = unix.Setns(int(f.Fd()), unix.CLONE_NEWNET); err != nil {
		panic(err)
	}
}

func itoa(n int) string { return strconv.Itoa(n) }
