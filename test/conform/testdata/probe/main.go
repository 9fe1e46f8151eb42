// Command probe is the payload of the conformance tests: a static program that tells what it sees, tries what it is
// told and waits for signals.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/test/bundle/seen"
)

func main() {
	if len(os.Args) < 2 {
		fmt.Fprintln(os.Stderr, "probe: no verb")
		os.Exit(2)
	}
	args := os.Args[2:]
	switch os.Args[1] {
	case "report":
		json.NewEncoder(os.Stdout).Encode(seen.Look())
	case "exit":
		n, _ := strconv.Atoi(args[0])
		os.Exit(n)
	case "die":
		n, _ := strconv.Atoi(args[0])
		unix.Kill(unix.Getpid(), syscall.Signal(n))
		time.Sleep(time.Hour)
	case "wait":
		wait()
	case "tree":
		tree(args[0])
	case "eat":
		eat(args[0])
	case "try":
		json.NewEncoder(os.Stdout).Encode(tryAll(args))
	case "echo":
		fmt.Println(strings.Join(args, " "))
	case "tty":
		json.NewEncoder(os.Stdout).Encode(terminal())
	case "hook":
		hook(args)
	}
}

// wait says that it is there, and the name of each signal that comes. SIGTERM ends it with status 7.
func wait() {
	c := make(chan os.Signal, 16)
	signal.Notify(c, unix.SIGTERM, unix.SIGHUP, unix.SIGUSR1, unix.SIGUSR2, unix.SIGINT, unix.SIGWINCH)
	fmt.Println("up")
	for s := range c {
		fmt.Println(unix.SignalName(s.(syscall.Signal)))
		if s == unix.SIGTERM {
			os.Exit(7)
		}
	}
}

// tree is a process with n children; all of them sleep, and end by SIGTERM only.
func tree(n string) {
	count, _ := strconv.Atoi(n)
	for range count {
		if err := exec.Command("/probe", "tree", "0").Start(); err != nil {
			fmt.Println(err)
			os.Exit(1)
		}
	}
	if count > 0 {
		fmt.Println("up")
	}
	time.Sleep(time.Hour)
}

// eat touches so many MiB.
func eat(n string) {
	count, _ := strconv.Atoi(n)
	var kept [][]byte
	for range count {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		kept = append(kept, b)
	}
	fmt.Println("ate", len(kept))
}

// hook appends to the file args[0] a line: its name args[1], where it is, and what came on standard input. A third
// argument is the exit status, or "hang".
func hook(args []string) {
	doc := map[string]any{}
	err := json.NewDecoder(os.Stdin).Decode(&doc)
	line := map[string]any{"name": args[1], "state": doc, "env": os.Environ(), "args": os.Args[:1]}
	if err != nil {
		line["error"] = err.Error()
	}
	for _, ns := range []string{"mnt", "uts", "pid", "net"} {
		line[ns], _ = os.Readlink("/proc/self/ns/" + ns)
	}
	line["root"], _ = os.Readlink("/proc/self/root")
	_, err = os.Stat("/inside")
	line["inside"] = err == nil
	text, _ := json.Marshal(line)
	f, err := os.OpenFile(args[0], os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(9)
	}
	fmt.Fprintf(f, "%s\n", text)
	f.Close()
	if len(args) < 3 {
		return
	}
	if args[2] == "hang" {
		time.Sleep(time.Hour)
	}
	n, _ := strconv.Atoi(args[2])
	os.Exit(n)
}

func terminal() map[string]any {
	r := map[string]any{}
	if ws, err := unix.IoctlGetWinsize(0, unix.TIOCGWINSZ); err == nil {
		r["size"] = fmt.Sprintf("%dx%d", ws.Row, ws.Col)
	}
	sid, _ := unix.Getsid(0)
	fg, _ := unix.IoctlGetInt(0, unix.TIOCGPGRP)
	r["leader"], r["foreground"] = sid == os.Getpid(), fg == unix.Getpgrp()
	var a, b unix.Stat_t
	unix.Fstat(0, &a)
	r["console"] = unix.Stat("/dev/console", &b) == nil && a.Rdev == b.Rdev && a.Ino == b.Ino
	r["owner"] = a.Uid
	r["name"], _ = os.Readlink("/proc/self/fd/0")
	f, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	r["tty"] = err == nil
	f.Close()
	return r
}
