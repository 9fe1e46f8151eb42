// Package seen is what the programs in the suites' containers report, and how they find it out. Tests decode the same
// types. It imports little: the programs are static, started thousands of times, and run where nothing can be relied on.
//
//	in the container     seen.Look() -> JSON on standard output -> seen.Process in the test
//
// What can't be read is left empty: a report is a measurement, what is right is for the test to say.
package seen

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Process is what a process sees of itself and around it.
type Process struct {
	Args, Env        []string
	Pid, Ppid        int
	Cwd              string
	Hostname, Domain string
	Status           map[string]string
	FDs              map[string]string
	Mounts           []Mount
	Rlimits          map[string][2]uint64
	OOM              string
	Namespaces       map[string]string
	Cgroup           string
	Dev              map[string]string
	Personality      int
	Interfaces       map[string]bool
	User
	Schedule
}

// User is whose it is.
type User struct {
	UID, GID, Umask int
	Groups          []int
}

// Schedule is what it gets of the processors and disks.
type Schedule struct{ Policy, Nice, IOPriority int }

// Mount is a line of mountinfo (proc_pid_mountinfo(5)). Options and Tags are the mount's, Super are the file system's.
type Mount struct{ At, Type, Options, Super, Tags, Source string }

// limits are the numbers of getrlimit(2); names are those of config.json.
var limits = map[string]int{"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
	"RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_MSGQUEUE": 12}

// Look fills in all of it.
func Look() *Process {
	runtime.LockOSThread()
	s := &Process{Args: os.Args, Env: os.Environ(), User: User{UID: os.Getuid(), GID: os.Getgid()}, Pid: os.Getpid(), Ppid: os.Getppid(),
		Status: Status(), FDs: Descriptors(), Mounts: Mounts(), Rlimits: map[string][2]uint64{}, Namespaces: map[string]string{},
		Dev: map[string]string{}, Interfaces: map[string]bool{}}
	s.Groups, _ = os.Getgroups()
	s.Cwd, _ = os.Getwd()
	var u unix.Utsname
	unix.Uname(&u)
	s.Hostname, s.Domain = unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Domainname[:])
	for name, n := range limits {
		var l unix.Rlimit
		unix.Prlimit(0, n, nil, &l)
		s.Rlimits[name] = [2]uint64{l.Cur, l.Max}
	}
	s.OOM = strings.Join(Lines("/proc/self/oom_score_adj"), "")
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		s.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	s.Cgroup = strings.Join(Lines("/proc/self/cgroup"), "\n")
	s.Umask = unix.Umask(0)
	p, _, _ := unix.RawSyscall(unix.SYS_PERSONALITY, 0xffffffff, 0, 0)
	s.Personality = int(p)
	policy, _, _ := unix.RawSyscall(unix.SYS_SCHED_GETSCHEDULER, 0, 0, 0)
	s.Policy = int(policy)
	s.Nice, _ = unix.Getpriority(unix.PRIO_PROCESS, 0)
	s.Nice = 20 - s.Nice // what the system call returns is moved, so that it is no error
	prio, _, _ := unix.RawSyscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	s.IOPriority = int(prio)
	devices("/dev", s.Dev)
	names, _ := os.ReadDir("/sys/class/net")
	for _, n := range names {
		flags := strings.TrimSpace(strings.Join(Lines("/sys/class/net/"+n.Name()+"/flags"), ""))
		v, _ := strconv.ParseUint(flags, 0, 32)
		s.Interfaces[n.Name()] = v&unix.IFF_UP != 0
	}
	return s
}

// Status is /proc/self/status.
func Status() map[string]string {
	status := map[string]string{}
	for _, line := range Lines("/proc/self/status") {
		k, v, _ := strings.Cut(line, ":")
		status[k] = strings.TrimSpace(v)
	}
	return status
}

// Descriptors tells what is open, by number, without what a Go program's run time opens for itself.
func Descriptors() map[string]string {
	open := map[string]string{}
	dir, err := os.Open("/proc/self/fd")
	if err != nil {
		return open
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, n := range names {
		to, err := os.Readlink("/proc/self/fd/" + n)
		if err != nil || n == strconv.Itoa(int(dir.Fd())) || strings.Contains(to, "eventpoll") || strings.Contains(to, "eventfd") ||
			strings.HasPrefix(to, "/sys/fs/cgroup/") {
			continue
		}
		open[n] = to
	}
	return open
}

// Mounts is /proc/self/mountinfo, in its order.
func Mounts() []Mount {
	var list []Mount
	for _, line := range Lines("/proc/self/mountinfo") {
		head, tail, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if len(f) > 5 && len(g) > 2 {
			list = append(list, Mount{At: f[4], Type: g[0], Options: f[5], Super: g[2], Tags: strings.Join(f[6:], " "), Source: g[1]})
		}
	}
	return list
}

// Has tells whether a mount has an option.
func (m Mount) Has(option string) bool {
	return strings.Contains(","+m.Options+",", ","+option+",")
}

// Mount is the topmost mount at a path.
func (s *Process) Mount(at string) Mount {
	var m Mount
	for _, x := range s.Mounts {
		if x.At == at {
			m = x
		}
	}
	return m
}

// Reach is what a process that means harm can get at.
type Reach struct {
	Env          []string
	UID, GID     int
	Cwd          string
	Status       map[string]string
	FDs          map[string]string // above the standard streams
	Mounts       []Mount
	Access       map[string]string
	ProcIsProc   bool
	InitExe      string
	CgroupWrites []string
}

// devices describes what is in a directory: links by target, the others by mode, owner and number.
func devices(dir string, into map[string]string) {
	entries, _ := os.ReadDir(dir)
	for _, e := range entries {
		name := filepath.Join(dir, e.Name())
		if to, err := os.Readlink(name); err == nil {
			into[e.Name()] = "-> " + to
			continue
		}
		var st unix.Stat_t
		if unix.Lstat(name, &st) == nil {
			into[e.Name()] = fmt.Sprintf("%o %d:%d %d:%d", st.Mode, st.Uid, st.Gid, unix.Major(st.Rdev), unix.Minor(st.Rdev))
		}
	}
}

// Lines are those of a file.
func Lines(name string) []string {
	b, _ := os.ReadFile(name)
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}
