//go:build !(amd64 || arm64)

package loop

import (
	"os"
	"os/signal"
	"syscall"
)

// Signals makes each SIGCHLD, SIGTERM and SIGHUP come as a byte from a pipe, and returns its read end.
func Signals() (int, error) {
	var ends [2]int
	if err := syscall.Pipe2(ends[:], syscall.O_CLOEXEC|syscall.O_NONBLOCK); err != nil {
		return -1, failure("pipe for signals", err)
	}
	c := make(chan os.Signal, 8)
	signal.Notify(c, syscall.SIGCHLD, syscall.SIGTERM, syscall.SIGHUP)
	// ends with the process
	go func() {
		for s := range c {
			syscall.Write(ends[1], []byte{byte(s.(syscall.Signal))})
		}
	}()
	return ends[0], nil
}
