package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// openSlave unlocks and opens the other side of a terminal.
func openSlave(master *os.File) *os.File {
	n, err := unix.IoctlGetUint32(int(master.Fd()), unix.TIOCGPTN)
	if err != nil {
		panic(err)
	}
	if err = unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		panic(err)
	}
	f, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		panic(err)
	}
	return f
}
