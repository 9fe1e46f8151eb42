// Command probe is the payload of the launcher's tests: a static program that tells what it sees.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

func main() {
	switch os.Args[1] {
	case "report":
		json.NewEncoder(os.Stdout).Encode(report())
	case "sleep":
		fmt.Println("up")
		time.Sleep(time.Hour)
	case "exit":
		n, _ := strconv.Atoi(os.Args[2])
		os.Exit(n)
	case "cat":
		b, err := os.ReadFile(os.Args[2])
		fmt.Print(string(b))
		if err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "write":
		if err := os.WriteFile(os.Args[2], []byte("probe"), 0o644); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	case "talk":
		// says the size of its terminal for each line it reads, until one says "end"
		for in := bufio.NewScanner(os.Stdin); in.Scan() && in.Text() != "end"; {
			ws, _ := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
			fmt.Printf("got %s %d %d\n", in.Text(), ws.Row, ws.Col)
		}
		os.Exit(5)
	case "hook":
		state, _ := io.ReadAll(os.Stdin)
		host, _ := os.Hostname()
		wd, _ := os.Getwd()
		line, _ := json.Marshal(map[string]any{"State": json.RawMessage(state), "Env": strings.Join(os.Environ(), " "), "Pid": os.Getpid(), "Hostname": host, "Cwd": wd})
		f, _ := os.OpenFile(os.Args[2], os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
		fmt.Fprintf(f, "%s\n", line)
	case "agent":
		n, _ := strconv.Atoi(os.Args[2])
		agent(n)
	case "personality":
		// asks three times; the errno of each
		for i, p := range []uint32{0, 8, 0xffffffff} {
			_, _, e := unix.RawSyscall(unix.SYS_PERSONALITY, uintptr(p), 0, 0)
			fmt.Printf("%d:%d%s", p, int(e), []string{" ", " ", "\n"}[i])
		}
	case "stat":
		for _, name := range os.Args[2:] {
			var st unix.Stat_t
			if err := unix.Lstat(name, &st); err != nil {
				fmt.Println(name, err)
				continue
			}
			fmt.Println(name, st.Uid, st.Gid)
		}
	case "clocks":
		now := map[string]int64{}
		for name, id := range map[string]int32{"monotonic": unix.CLOCK_MONOTONIC, "boottime": unix.CLOCK_BOOTTIME} {
			var ts unix.Timespec
			unix.ClockGettime(id, &ts)
			now[name] = ts.Sec
		}
		json.NewEncoder(os.Stdout).Encode(now)
	case "rlimits":
		all := map[string][2]uint64{}
		for n := range 16 {
			var l unix.Rlimit
			unix.Prlimit(0, n, nil, &l)
			all[strconv.Itoa(n)] = [2]uint64{l.Cur, l.Max}
		}
		json.NewEncoder(os.Stdout).Encode(all)
	case "sched":
		json.NewEncoder(os.Stdout).Encode(sched())
	case "tty":
		report := map[string]any{}
		ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ)
		if err == nil {
			report["rows"], report["cols"] = ws.Row, ws.Col
		}
		sid, _ := unix.Getsid(0)
		fg, _ := unix.IoctlGetInt(0, unix.TIOCGPGRP)
		report["leader"], report["foreground"] = sid == os.Getpid(), fg == unix.Getpgrp()
		var a, b unix.Stat_t
		unix.Fstat(0, &a)
		unix.Stat("/dev/console", &b)
		report["console"] = a.Rdev == b.Rdev
		json.NewEncoder(os.Stdout).Encode(report)
	}
}

// sched tells how this process is scheduled.
func sched() map[string]any {
	out := map[string]any{}
	if a, err := unix.SchedGetAttr(0, 0); err == nil {
		out["policy"], out["nice"], out["priority"], out["flags"] = a.Policy, a.Nice, a.Priority, a.Flags
		out["runtime"], out["deadline"], out["period"] = a.Runtime, a.Deadline, a.Period
	}
	io, _, _ := unix.Syscall(unix.SYS_IOPRIO_GET, 1, 0, 0)
	out["io"] = io
	var set unix.CPUSet
	unix.SchedGetaffinity(0, &set)
	out["cpus"] = fmt.Sprint(set.Count(), set.IsSet(0), set.IsSet(1))
	var u unix.Utsname
	unix.Uname(&u)
	out["machine"] = unix.ByteSliceToString(u.Machine[:])
	return out
}

type sight struct {
	Args, Env, Groups []string
	UID, GID, Pid     int
	Cwd, Hostname     string
	Status            map[string]string
	FDs               []string
	Mounts            map[string]string
	NoFile            [2]uint64
	OOM               string
	Umask             int
	Cgroup            string
	Devices           map[string]string
}

func report() *sight {
	s := &sight{Args: os.Args, Env: os.Environ(), UID: os.Getuid(), GID: os.Getgid(), Pid: os.Getpid(), Status: seen.Status(),
		Mounts: map[string]string{}, Devices: map[string]string{}}
	for n, to := range seen.Descriptors() {
		s.FDs = append(s.FDs, n+" "+to)
	}
	gids, _ := os.Getgroups()
	for _, g := range gids {
		s.Groups = append(s.Groups, strconv.Itoa(g))
	}
	s.Cwd, _ = os.Getwd()
	s.Hostname, _ = os.Hostname()
	for _, m := range seen.Mounts() {
		s.Mounts[m.At] = m.Type + " " + m.Options + " " + m.Tags
	}
	var l unix.Rlimit
	unix.Getrlimit(unix.RLIMIT_NOFILE, &l)
	s.NoFile = [2]uint64{l.Cur, l.Max}
	s.OOM = strings.Join(seen.Lines("/proc/self/oom_score_adj"), "")
	s.Umask = unix.Umask(0)
	s.Cgroup = strings.Join(seen.Lines("/proc/self/cgroup"), "\n")
	entries, _ := os.ReadDir("/dev")
	for _, e := range entries {
		var st unix.Stat_t
		unix.Lstat("/dev/"+e.Name(), &st)
		s.Devices[e.Name()] = fmt.Sprintf("%o %d:%d", st.Mode, unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return s
}
