// Command probe is what the attacks run inside of containers: a static program that tries things and tells what came of them.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

func main() {
	if len(os.Args) < 2 {
		os.Exit(3)
	}
	arg := func(i int) string { return append(os.Args, make([]string, 8)...)[i] }
	switch os.Args[1] {
	case "report":
		json.NewEncoder(os.Stdout).Encode(report(os.Args[2:]))
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Hour)
	case "exit":
		n, _ := strconv.Atoi(arg(2))
		os.Exit(n)
	case "write":
		write(arg(2))
	case "climb":
		climb(arg(2))
	case "calls":
		calls(arg(2))
	case "tiocsti":
		c := byte('#')
		_, _, e := unix.Syscall(unix.SYS_IOCTL, 0, unix.TIOCSTI, uintptr(bytePointer(&c)))
		fmt.Println("tiocsti:", int(e))
	case "hook":
		b, _ := json.Marshal(report(nil))
		os.WriteFile(arg(2), b, 0o666)
	case "watch":
		watch(arg(2))
	case "overwrite":
		overwrite()
	case "fill":
		fill(arg(2))
	}
}

// write writes to a file that exists.
func write(name string) {
	f, err := os.OpenFile(name, os.O_WRONLY, 0)
	if err == nil {
		_, err = f.WriteString("probe")
	}
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
}

// climb looks for a file of the host from the working directory upwards.
func climb(name string) {
	for i := range 20 {
		for _, from := range []string{"", "/proc/self/cwd/", "/proc/1/cwd/"} {
			p := from + strings.Repeat("../", i) + strings.TrimPrefix(name, "/")
			if b, err := os.ReadFile(p); err == nil {
				fmt.Printf("found %s: %s\n", p, b)
				os.Exit(9)
			}
		}
	}
	fmt.Println("nothing")
}

// fill takes memory until it is killed or has what was asked for, in MiB.
func fill(mib string) {
	n, _ := strconv.Atoi(mib)
	b := make([]byte, n<<20)
	for i := 0; i < len(b); i += 4096 {
		b[i] = 1
	}
	fmt.Println("filled")
}

type reach seen.Reach

func report(paths []string) *reach {
	s := &reach{Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), Status: seen.Status(), FDs: seen.Descriptors(), Mounts: seen.Mounts(), Access: map[string]string{}}
	for _, standard := range []string{"0", "1", "2"} {
		delete(s.FDs, standard)
	}
	s.Cwd, _ = unix.Getwd()
	s.accesses(paths)
	s.InitExe, _ = os.Readlink("/proc/1/exe")
	entries, _ := os.ReadDir("/sys/fs/cgroup")
	for _, e := range entries {
		dir := "/sys/fs/cgroup/" + e.Name() + "/probe"
		if os.Mkdir(dir, 0o755) == nil {
			s.CgroupWrites = append(s.CgroupWrites, dir)
			os.Remove(dir)
		}
	}
	return s
}

// accesses looks at the paths. What is called /proc is looked at once and held, as its name may lead elsewhere the next moment.
func (s *reach) accesses(paths []string) {
	proc, err := unix.Open("/proc", unix.O_PATH|unix.O_DIRECTORY, 0)
	here, _ := unix.Open(".", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err == nil {
		var st unix.Statfs_t
		s.ProcIsProc = unix.Fstatfs(proc, &st) == nil && st.Type == unix.PROC_SUPER_MAGIC
	}
	for _, p := range paths {
		name, below := strings.CutPrefix(p, "/proc/")
		if !below || err != nil || unix.Fchdir(proc) != nil {
			s.Access[p] = access(p)
			continue
		}
		s.Access[p] = access(name)
		unix.Fchdir(here)
	}
	unix.Close(proc)
	unix.Close(here)
}

// access tells whether a path can be read and opened for writing, what it is and on which file system. Nothing is
// written: a path may be the host's.
func access(p string) string {
	out := ""
	if f, err := unix.Open(p, unix.O_RDONLY|unix.O_NONBLOCK, 0); err == nil {
		buf := make([]byte, 64)
		if n, err := unix.Read(f, buf); err == nil && n > 0 || err == unix.EISDIR {
			out += "r"
		}
		if entries, err := os.ReadDir(p); err == nil && len(entries) == 0 {
			out = "empty"
		}
		unix.Close(f)
	}
	if f, err := unix.Open(p, unix.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
		out += "w"
		unix.Close(f)
	}
	var st unix.Stat_t
	if unix.Stat(p, &st) != nil {
		return "absent"
	}
	return fmt.Sprintf("%s %o %d:%d", out, st.Mode&unix.S_IFMT, unix.Major(st.Rdev), unix.Minor(st.Rdev))
}
