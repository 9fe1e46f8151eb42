// Command fakeoci stands in for an OCI runtime and for what runs in containers. Its first argument says what it does; see the
// tests of package monitor.
package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	args := os.Args[2:]
	switch os.Args[1] {
	case "create": // PIDFILE DELAY CMD...: starts "fakeoci CMD...", leaves it, and exits 0 after DELAY ms or when the file DELAY is there
		create(args[0], args[1], args[2:])
	case "create-tty": // PIDFILE SOCKET CMD...
		createTTY(args[0], args[1], args[2:])
	case "broken": // TEXT: fails as a runtime does
		fmt.Fprintln(os.Stderr, args[0])
		os.Exit(7)
	case "liar": // says that all is well and leaves a pid that is not its child
		os.WriteFile(args[0], []byte("1"), 0o600)
	case "litter": // DIR DEPTH: makes two children in sessions of their own, they likewise DEPTH times, and names them to nobody but DIR
		litter(args[0], number(args[1]))
	case "hang":
		fmt.Fprintln(os.Stderr, "hanging")
		time.Sleep(time.Hour)
	default:
		payload(os.Args[1], args)
	}
}

func litter(dir string, depth int) {
	for range 2 * min(depth, 1) {
		c := exec.Command("/proc/self/exe", "litter", dir, strconv.Itoa(depth-1))
		c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
		if err := c.Start(); err != nil {
			panic(err)
		}
	}
	os.WriteFile(dir+"/"+strconv.Itoa(os.Getpid()), nil, 0o600)
	time.Sleep(time.Hour)
}

// payload is what runs in the container.
func payload(what string, args []string) {
	switch what {
	case "exit": // CODE
		os.Exit(number(args[0]))
	case "say": // OUT ERR CODE
		io.WriteString(os.Stdout, unescape(args[0]))
		io.WriteString(os.Stderr, unescape(args[1]))
		os.Exit(number(args[2]))
	case "sleep":
		time.Sleep(time.Hour)
	case "stubborn":
		signal.Ignore(syscall.SIGTERM)
		fmt.Println("ready")
		time.Sleep(time.Hour)
	case "orphans":
		orphans()
	case "cat":
		io.Copy(os.Stdout, os.Stdin)
		fmt.Println("eof")
	case "gate":
		gate(args)
	case "bytes":
		write(number(args[0]), number(args[1]))
	case "tick": // every 5 ms a number, for ever
		for i := 0; ; i++ {
			fmt.Println(i)
			time.Sleep(5 * time.Millisecond)
		}
	case "fds":
		fds()
	case "signals":
		signals()
	}
}

func number(s string) int {
	n, err := strconv.Atoi(s)
	if err != nil {
		panic(err)
	}
	return n
}

// orphans leaves children that end after a while, and goes on.
func orphans() {
	for range 3 {
		exec.Command("/bin/sh", "-c", "(sleep 0.3 &) ; exit 0").Run()
	}
	fmt.Println("left")
	time.Sleep(time.Hour)
}

// gate waits, for each number, for some input, and writes as many lines.
func gate(numbers []string) {
	line := strings.Repeat("0123456789abcdef", 8) + "\n"
	for _, a := range numbers {
		os.Stdin.Read(make([]byte, 16))
		for n := number(a); n > 0; n -= 500 {
			os.Stdout.WriteString(strings.Repeat(line, min(n, 500)))
		}
	}
}

// write writes some MiB in lines of a size.
func write(mib, size int) {
	line := strings.Repeat("x", size-1) + "\n"
	block := []byte(strings.Repeat(line, max(1, (64<<10)/size)))
	for n := 0; n < mib<<20; n += len(block) {
		os.Stdout.Write(block)
	}
}

// fds lists the process's descriptors.
func fds() {
	entries, _ := os.ReadDir("/proc/self/fd")
	for _, e := range entries {
		to, _ := os.Readlink("/proc/self/fd/" + e.Name())
		fmt.Println(e.Name(), to)
	}
}

// signals tells which signals are blocked or ignored.
func signals() {
	status, _ := os.ReadFile("/proc/self/status")
	for _, l := range strings.Split(string(status), "\n") {
		if strings.HasPrefix(l, "SigBlk") || strings.HasPrefix(l, "SigIgn") {
			fmt.Println(l)
		}
	}
}

func unescape(s string) string {
	out, err := strconv.Unquote(`"` + s + `"`)
	if err != nil {
		panic(err)
	}
	return out
}

func create(pidFile, delay string, cmd []string) {
	c := exec.Command("/proc/self/exe", cmd...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := c.Start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.WriteFile(pidFile, []byte(strconv.Itoa(c.Process.Pid)), 0o600)
	if !strings.HasPrefix(delay, "/") {
		time.Sleep(time.Duration(number(delay)) * time.Millisecond)
		return
	}
	for _, err := os.Stat(delay); err != nil; _, err = os.Stat(delay) {
		time.Sleep(5 * time.Millisecond)
	}
}

func createTTY(pidFile, socket string, cmd []string) {
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		panic(err)
	}
	slave := openSlave(master)
	c := exec.Command("/proc/self/exe", cmd...)
	c.Stdin, c.Stdout, c.Stderr = slave, slave, slave
	c.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		panic(err)
	}
	if _, _, err = conn.(*net.UnixConn).WriteMsgUnix([]byte("tty"), syscall.UnixRights(int(master.Fd())), nil); err != nil {
		panic(err)
	}
	if err = c.Start(); err != nil {
		panic(err)
	}
	os.WriteFile(pidFile, []byte(strconv.Itoa(c.Process.Pid)), 0o600)
	fmt.Fprintln(os.Stderr, "a message of the runtime")
}
