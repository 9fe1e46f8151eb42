// Vm starts, uses and ends virtual nodes. hack/vm.sh, which calls it, is what people use.
//
//	vm up -dir D -image I -agent A -qemu "WORDS" [-disk IMAGE=/MOUNTPOINT]... [-tap NAME,ADDRESS,GATEWAY]
//	vm exec -dir D [-tty] [-C DIR] [-env K=V]... [-timeout 10m] COMMAND [ARG]...    exits with the command's code
//	vm put -dir D LOCAL REMOTEDIR       a file or directory, as tar(1) sees it
//	vm get -dir D REMOTE LOCALDIR
//	vm down -dir D
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/berth-runtime/berth/hack/vm/machine"
	"golang.org/x/sys/unix"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	code, err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "vm:", err)
		code = failed(err)
	}
	os.Exit(code)
}

// failed is the exit code for an error, which no command of a node's should have: 125, and 3 of up where KVM is to blame.
func failed(err error) int {
	if errors.Is(err, machine.ErrKVM) {
		return 3
	}
	return 125
}

type list []string

func (l *list) String() string     { return strings.Join(*l, " ") }
func (l *list) Set(s string) error { *l = append(*l, s); return nil }

func run(ctx context.Context, args []string) (int, error) {
	verbs := map[string]func(context.Context, *flag.FlagSet, []string) (int, error){
		"up": up, "exec": execute, "put": put, "get": get, "down": down,
	}
	if len(args) == 0 || verbs[args[0]] == nil {
		return 2, errors.New("usage: vm up|exec|put|get|down -dir D [arguments]")
	}
	return verbs[args[0]](ctx, flag.NewFlagSet("vm "+args[0], flag.ExitOnError), args[1:])
}

func up(ctx context.Context, f *flag.FlagSet, args []string) (int, error) {
	var o machine.Options
	var disks list
	f.StringVar(&o.Dir, "dir", "", "the node's directory, which must not exist")
	f.StringVar(&o.Image, "image", "", "image directory")
	f.StringVar(&o.Agent, "agent", "", "agent binary")
	qemu := f.String("qemu", "qemu-system-x86_64", "QEMU's command line, split at blanks")
	f.StringVar(&o.Accel, "accel", "tcg", "tcg or kvm")
	f.IntVar(&o.CPUs, "cpus", 2, "processors")
	f.IntVar(&o.Memory, "memory", 3072, "MiB")
	f.StringVar(&o.Words, "append", "", "more kernel command line")
	f.Var(&disks, "disk", "IMAGE=/MOUNTPOINT, an erofs image; may be repeated")
	tap := f.String("tap", "", "NAME,ADDRESS/BITS,GATEWAY: a tap device of this network namespace, instead of QEMU's own network")
	timeout := f.Duration("timeout", 15*time.Minute, "for the boot")
	if err := f.Parse(args); err != nil {
		return 2, err
	}
	o.QEMU = strings.Fields(*qemu)
	for _, d := range disks {
		image, dir, _ := strings.Cut(d, "=")
		o.Disks = append(o.Disks, machine.Disk{Image: image, Dir: dir})
	}
	if *tap != "" {
		p := strings.Split(*tap, ",")
		if len(p) != 3 {
			return 2, errors.New("-tap NAME,ADDRESS/BITS,GATEWAY")
		}
		o.Tap = machine.Tap{Name: p[0], Address: p[1], Gateway: p[2]}
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	m, err := machine.Start(ctx, o)
	if err != nil {
		return 1, err
	}
	fmt.Println(m.Addr)
	return 0, nil
}

func execute(ctx context.Context, f *flag.FlagSet, args []string) (int, error) {
	var c machine.Command
	var env list
	dir := f.String("dir", "", "the node's directory")
	f.BoolVar(&c.TTY, "tty", false, "give it a terminal")
	f.StringVar(&c.Dir, "C", "/", "working directory")
	f.Var(&env, "env", "NAME=VALUE; may be repeated")
	stdin := f.Bool("i", false, "pass standard input on")
	timeout := f.Duration("timeout", 24*time.Hour, "kill it after")
	if err := f.Parse(args); err != nil {
		return 2, err
	}
	m, err := machine.Open(*dir)
	if err != nil {
		return 125, err
	}
	ctx, cancel := context.WithTimeout(ctx, *timeout)
	defer cancel()
	c.Args, c.Env, c.Stdout, c.Stderr = f.Args(), env, os.Stdout, os.Stderr
	if *stdin || c.TTY {
		c.Stdin = os.Stdin
	}
	if c.TTY {
		restore, err := raw()
		if err != nil {
			return 125, err
		}
		defer restore()
	}
	return m.Run(ctx, c)
}

// raw makes the terminal pass every key on (cfmakeraw(3)).
func raw() (restore func(), err error) {
	fd := int(os.Stdin.Fd())
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("standard input is no terminal: %w", err)
	}
	t := *old
	t.Iflag &^= unix.IGNBRK | unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.ISIG | unix.IEXTEN
	t.Cflag = t.Cflag&^(unix.CSIZE|unix.PARENB) | unix.CS8
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return nil, err
	}
	return func() { unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}

func put(ctx context.Context, f *flag.FlagSet, args []string) (int, error) {
	m, from, to, err := pair(f, args)
	if err != nil {
		return 2, err
	}
	tar := exec.CommandContext(ctx, "tar", "-C", filepath.Dir(from), "-cf", "-", filepath.Base(from))
	tar.Stderr = os.Stderr
	out, err := tar.StdoutPipe()
	if err != nil {
		return 1, err
	}
	if err := tar.Start(); err != nil {
		return 1, err
	}
	code, err := m.Run(ctx, machine.Command{Args: []string{"sh", "-c", `mkdir -p "$0" && tar -C "$0" -xf -`, to}, Stdin: out, Stderr: os.Stderr})
	return code, errors.Join(err, tar.Wait())
}

func get(ctx context.Context, f *flag.FlagSet, args []string) (int, error) {
	m, from, to, err := pair(f, args)
	if err != nil {
		return 2, err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return 1, err
	}
	tar := exec.CommandContext(ctx, "tar", "-C", to, "-xf", "-")
	tar.Stderr = os.Stderr
	in, err := tar.StdinPipe()
	if err != nil {
		return 1, err
	}
	if err := tar.Start(); err != nil {
		return 1, err
	}
	code, err := m.Run(ctx, machine.Command{Args: []string{"tar", "-C", filepath.Dir(from), "-cf", "-", filepath.Base(from)}, Stdout: in, Stderr: os.Stderr})
	in.Close()
	return code, errors.Join(err, tar.Wait())
}

func pair(f *flag.FlagSet, args []string) (m *machine.Machine, from, to string, err error) {
	dir := f.String("dir", "", "the node's directory")
	if err := f.Parse(args); err != nil {
		return nil, "", "", err
	}
	if f.NArg() != 2 {
		return nil, "", "", errors.New("two arguments: from, to")
	}
	m, err = machine.Open(*dir)
	return m, f.Arg(0), f.Arg(1), err
}

func down(_ context.Context, f *flag.FlagSet, args []string) (int, error) {
	dir := f.String("dir", "", "the node's directory")
	if err := f.Parse(args); err != nil {
		return 2, err
	}
	return 0, (&machine.Machine{Dir: *dir}).Stop()
}
