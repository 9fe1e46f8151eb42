package loop

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// readFile reads at most limit bytes of a file.
func readFile(path string, limit int) ([]byte, error) {
	fd, err := openRetry(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer syscall.Close(fd)
	buf := make([]byte, limit)
	n := 0
	for n < limit {
		m, err := syscall.Read(fd, buf[n:])
		if err == syscall.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if m == 0 {
			break
		}
		n += m
	}
	return buf[:n], nil
}

// atoi reads the decimal number that b begins with; 0 if there is none or it is too large for a pid or counter.
func atoi(b []byte) int {
	v := 0
	for _, c := range b {
		if c < '0' || c > '9' {
			break
		}
		if v > 1<<40 {
			return 0
		}
		v = v*10 + int(c-'0')
	}
	return v
}

// itoa writes a number that is not negative.
func itoa(v int) string {
	var b [20]byte
	i := len(b)
	for {
		i--
		b[i] = byte('0' + v%10)
		if v /= 10; v == 0 {
			return string(b[i:])
		}
	}
}
