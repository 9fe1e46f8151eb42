// Command berth is the container runtime daemon and its companions: serve, check, config, version.
package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
)

// version is set by the linker and never written: -X main.version=v1.2.3.
var version = "dev"

// command is one word after "berth".
type command struct {
	name, args, help string
	hidden           bool
	run              func(std, []string) error
}

// std is where a command writes.
type std struct{ out, err io.Writer }

func commands() []command {
	return []command{
		{name: "serve", args: "[flags]", help: "run the daemon", run: serve},
		{name: "check", help: "try what this kernel offers and say what is missing", run: check},
		{name: "config", args: "[flags]", help: "print the configuration that serve would use, as TOML", run: printConfig},
		{name: "version", help: "print the version", run: printVersion},
		{name: "unpack", hidden: true, run: unpack},
		{name: holdCommand, hidden: true, run: hold},
	}
}

func main() {
	os.Exit(run(std{os.Stdout, os.Stderr}, os.Args[1:]))
}

// run executes the command and returns the exit code: 1 for a failure, 2 for a command line that makes no sense.
func run(io std, args []string) int {
	if len(args) == 0 {
		usage(io.err)
		return 2
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		usage(io.out)
		return 0
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(io, args[1:])
		switch {
		case err == nil, errors.Is(err, flag.ErrHelp):
			return 0
		case errors.As(err, new(usageError)):
			fmt.Fprintf(io.err, "berth %s: %v\n", c.name, err)
			return 2
		}
		fmt.Fprintf(io.err, "berth %s: %v\n", c.name, err)
		return 1
	}
	fmt.Fprintf(io.err, "berth: unknown command %q\n\n", args[0])
	usage(io.err)
	return 2
}

// usageError is a command line that makes no sense.
type usageError struct{ error }

func (u usageError) Unwrap() error { return u.error }

func usage(w io.Writer) {
	fmt.Fprintf(w, "Berth is a container runtime for Kubernetes nodes.\n\nUsage: berth COMMAND\n\n")
	for _, c := range commands() {
		if !c.hidden {
			fmt.Fprintf(w, "  %-18s %s\n", strings.TrimSpace(c.name+" "+c.args), c.help)
		}
	}
	fmt.Fprintf(w, "\n%s", flagHelp())
}

func printVersion(io std, args []string) error {
	if len(args) > 0 {
		return usageError{errors.New("takes no arguments")}
	}
	fmt.Fprintf(io.out, "berth %s (%s, %s/%s)\n", semver(version), runtime.Version(), runtime.GOOS, runtime.GOARCH)
	return nil
}

// semver makes v a version kubelet can parse, which it must be able to at start: what is none becomes the build part
// of 0.0.0.
func semver(v string) string {
	var major, minor, patch int
	if n, _ := fmt.Sscanf(strings.TrimPrefix(v, "v"), "%d.%d.%d", &major, &minor, &patch); n == 3 {
		return strings.TrimPrefix(v, "v")
	}
	build := strings.Map(func(r rune) rune {
		switch {
		case r >= '0' && r <= '9', r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z':
			return r
		}
		return '-'
	}, v)
	if build == "" {
		return "0.0.0"
	}
	return "0.0.0+" + build
}
