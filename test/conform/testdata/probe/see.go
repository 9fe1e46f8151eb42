package main

import (
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// seen mirrors the type of that name in the tests.
type seen struct {
	Args, Env        []string
	UID, GID, Umask  int
	Groups           []int
	Pid, Ppid        int
	Cwd              string
	Hostname, Domain string
	Status           map[string]string
	FDs              map[string]string
	Mounts           []mount
	Rlimits          map[string][2]uint64
	OOM              string
	Namespaces       map[string]string
	Cgroup           string
	Dev              map[string]string
	Personality      int
	Policy, Nice     int
	IOPriority       int
	Interfaces       map[string]bool
}

type mount struct{ At, Type, Options, Super, Tags, Source string }

// limits are the numbers of getrlimit(2); names are those of config.json.
var limits = map[string]int{"RLIMIT_CPU": 0, "RLIMIT_FSIZE": 1, "RLIMIT_DATA": 2, "RLIMIT_STACK": 3, "RLIMIT_CORE": 4,
	"RLIMIT_NPROC": 6, "RLIMIT_NOFILE": 7, "RLIMIT_MEMLOCK": 8, "RLIMIT_AS": 9, "RLIMIT_MSGQUEUE": 12}

func see() *seen {
	runtime.LockOSThread()
	s := &seen{Args: os.Args, Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), Pid: os.Getpid(), Ppid: os.Getppid(),
		Status: map[string]string{}, FDs: descriptors(), Rlimits: map[string][2]uint64{}, Namespaces: map[string]string{},
		Dev: map[string]string{}, Interfaces: map[string]bool{}}
	s.Groups, _ = os.Getgroups()
	s.Cwd, _ = os.Getwd()
	var u unix.Utsname
	unix.Uname(&u)
	s.Hostname, s.Domain = unix.ByteSliceToString(u.Nodename[:]), unix.ByteSliceToString(u.Domainname[:])
	for _, line := range lines("/proc/self/status") {
		k, v, _ := strings.Cut(line, ":")
		s.Status[k] = strings.TrimSpace(v)
	}
	s.Mounts = mounts()
	for name, n := range limits {
		var l unix.Rlimit
		unix.Prlimit(0, n, nil, &l)
		s.Rlimits[name] = [2]uint64{l.Cur, l.Max}
	}
	s.OOM = strings.Join(lines("/proc/self/oom_score_adj"), "")
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "time", "user", "uts"} {
		s.Namespaces[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	s.Cgroup = strings.Join(lines("/proc/self/cgroup"), "\n")
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
		flags := strings.TrimSpace(strings.Join(lines("/sys/class/net/"+n.Name()+"/flags"), ""))
		v, _ := strconv.ParseUint(flags, 0, 32)
		s.Interfaces[n.Name()] = v&unix.IFF_UP != 0
	}
	return s
}

// descriptors lists what is open, without what this program's own run time opens.
func descriptors() map[string]string {
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

func mounts() []mount {
	var list []mount
	for _, line := range lines("/proc/self/mountinfo") {
		head, tail, _ := strings.Cut(line, " - ")
		f, g := strings.Fields(head), strings.Fields(tail)
		if len(f) > 5 && len(g) > 2 {
			list = append(list, mount{At: f[4], Type: g[0], Options: f[5], Super: g[2], Tags: strings.Join(f[6:], " "), Source: g[1]})
		}
	}
	return list
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

func lines(name string) []string {
	b, _ := os.ReadFile(name)
	return strings.Split(strings.TrimRight(string(b), "\n"), "\n")
}
