package host

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Disk is a file system's size, in bytes and inodes, and its device.
type Disk struct {
	Major, Minor              uint32
	Bytes, Inodes, InodesFree uint64
}

// ReadDisk asks for the file system that holds path.
func ReadDisk(path string) (Disk, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Disk{}, fmt.Errorf("statfs %s: %w", path, err)
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return Disk{}, fmt.Errorf("stat %s: %w", path, err)
	}
	return Disk{
		Major: unix.Major(uint64(st.Dev)), Minor: unix.Minor(uint64(st.Dev)),
		Bytes: fs.Blocks * uint64(fs.Bsize), Inodes: fs.Files, InodesFree: fs.Ffree,
	}, nil
}

// DeviceNames returns a function that names block devices as /dev does, "8:0" where it has none. It asks once for each number
// and is not for concurrent use.
func DeviceNames() func(major, minor uint32) string {
	known := map[[2]uint32]string{}
	return func(major, minor uint32) string {
		key := [2]uint32{major, minor}
		name, ok := known[key]
		if !ok {
			name = fmt.Sprintf("%d:%d", major, minor)
			if to, err := os.Readlink("/sys/dev/block/" + name); err == nil {
				name = "/dev/" + strings.ReplaceAll(filepath.Base(to), "!", "/") // sysfs writes "/" so
			}
			known[key] = name
		}
		return name
	}
}

// Counts are sums over processes.
type Counts struct {
	Descriptors, Sockets uint64
	SoftFiles            uint64 // of the first process; 0: not known or unlimited
}

// Bounds on what one container's count may cost: beyond them descriptors are counted and not looked at.
const (
	maxLooked = 4096
	maxProcs  = 1024
)

// CountProcesses counts what the processes have open; first is the one whose limit is asked for. Processes that end meanwhile
// count as having nothing. It reads /proc: not for a request's path.
func CountProcesses(pids []int, first int) Counts {
	var c Counts
	looked := 0
	for i, pid := range pids {
		if i == maxProcs {
			break
		}
		dir := "/proc/" + strconv.Itoa(pid) + "/fd"
		var st unix.Stat_t
		if unix.Stat(dir, &st) != nil {
			continue
		}
		// The size is the number of descriptors since Linux 6.2, 0 before.
		if st.Size > 0 && looked+int(st.Size) > maxLooked {
			c.Descriptors += uint64(st.Size)
			continue
		}
		n, sockets := countOpen(dir, maxLooked-looked)
		looked += int(n)
		c.Descriptors += n
		c.Sockets += sockets
	}
	c.SoftFiles = softFiles(first)
	return c
}

func countOpen(dir string, most int) (n, sockets uint64) {
	f, err := os.Open(dir)
	if err != nil {
		return 0, 0
	}
	defer f.Close()
	names, err := f.Readdirnames(max(most, 1))
	if err != nil {
		return 0, 0
	}
	buf := make([]byte, 16)
	for _, name := range names {
		// The link says "socket:[inode]".
		if k, err := unix.Readlinkat(int(f.Fd()), name, buf); err == nil && bytes.HasPrefix(buf[:k], []byte("socket:")) {
			sockets++
		}
	}
	return uint64(len(names)), sockets
}

// softFiles is the soft RLIMIT_NOFILE of a process.
func softFiles(pid int) uint64 {
	f, err := os.Open("/proc/" + strconv.Itoa(pid) + "/limits")
	if err != nil {
		return 0
	}
	defer f.Close()
	for s := bufio.NewScanner(f); s.Scan(); {
		if rest, ok := strings.CutPrefix(s.Text(), "Max open files"); ok {
			if v := strings.Fields(rest); len(v) > 0 {
				n, err := strconv.ParseUint(v[0], 10, 64)
				if err != nil {
					return 0
				}
				return n
			}
		}
	}
	return 0
}
