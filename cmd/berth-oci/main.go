// Command berth-oci is an OCI runtime with the command line of runc. See package oci/launch.
//
// The runtime need not look for a CPU limit: it is short-lived, and reading the mount table for it grows with the node.
//
//go:debug containermaxprocs=0
//go:debug updatemaxprocs=0
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"strconv"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/berth-runtime/berth/oci/launch"
	"github.com/berth-runtime/berth/oci/launch/inside"
)

// version is set by the linker.
var version = "dev"

// app is one invocation.
type app struct {
	rt        launch.Runtime
	log       string
	logFormat string
	debug     bool
	global    []string // the arguments before the command
}

func main() {
	if len(os.Args) == 3 && os.Args[1] == "init" {
		fd, err := strconv.Atoi(os.Args[2])
		if err != nil {
			os.Exit(2)
		}
		os.Exit(inside.Main(fd))
	}
	a := &app{}
	code, err := a.run(os.Args[1:])
	if err != nil {
		a.say("error", err.Error())
		fmt.Fprintln(os.Stderr, "berth-oci: "+err.Error())
		if code == 0 {
			code = 1
		}
	}
	os.Exit(code)
}

// run reads the global flags and calls the command.
func (a *app) run(args []string) (int, error) {
	f := flags("berth-oci")
	f.StringVar(&a.rt.Root, "root", stateRoot(), "directory for container state")
	f.StringVar(&a.log, "log", "", "log file")
	f.StringVar(&a.logFormat, "log-format", "text", "text or json")
	f.BoolVar(&a.rt.Systemd, "systemd-cgroup", false, "cgroupsPath is slice:prefix:name")
	f.BoolVar(&a.debug, "debug", false, "more in the log")
	f.BoolVar(&a.rt.Inside, "inside-user-namespace", false, "for itself: this is the command's second process")
	f.String("rootless", "auto", "accepted for compatibility")
	f.String("criu", "", "accepted for compatibility")
	show := f.Bool("version", false, "print the version")
	f.BoolVar(show, "v", false, "print the version")
	if err := f.Parse(args); err != nil {
		return 1, usage(err)
	}
	a.rt.Warn = func(text string) { a.say("warning", text) }
	if *show {
		fmt.Printf("berth-oci version %s\nspec: %s\n", version, specs.Version)
		return 0, nil
	}
	a.rt.Inside = a.rt.Inside && launch.Nested()
	a.global = args[:len(args)-f.NArg()]
	rest := f.Args()
	if len(rest) == 0 {
		return 1, usage(flag.ErrHelp)
	}
	command := a.command(rest[0])
	if command == nil {
		return 1, fmt.Errorf("command %q: not known", rest[0])
	}
	return command(context.Background(), rest[1:])
}

func (a *app) command(name string) func(context.Context, []string) (int, error) {
	return map[string]func(context.Context, []string) (int, error){
		"create": a.create, "run": a.runContainer, "start": a.start, "state": a.state, "kill": a.kill, "delete": a.delete,
		"exec": a.exec, "ps": a.ps, "update": a.update, "pause": a.pause, "checkpoint": a.checkpoint, "resume": a.resume, "list": a.list, "events": a.events,
		"features": a.features, "spec": a.spec,
	}[name]
}

func flags(name string) *flag.FlagSet {
	f := flag.NewFlagSet(name, flag.ContinueOnError)
	f.SetOutput(io.Discard)
	return f
}

func usage(err error) error {
	if errors.Is(err, flag.ErrHelp) {
		return errors.New("usage: berth-oci [--root DIR] [--log FILE] [--log-format text|json] [--systemd-cgroup] " +
			"create|run|start|state|kill|delete|exec|ps|update|pause|resume|list|events|features|spec [flags] ID [args]")
	}
	return err
}

// parse reads a command's flags and takes its container id; ids of more than one argument are the command's own.
func parse(f *flag.FlagSet, args []string, least int) ([]string, error) {
	if err := f.Parse(args); err != nil {
		return nil, fmt.Errorf("%s: %w", f.Name(), err)
	}
	if f.NArg() < least {
		return nil, fmt.Errorf("%s: %d arguments wanted, %d given", f.Name(), least, f.NArg())
	}
	return f.Args(), nil
}

// say appends a line to the log, in the form runc's callers read.
func (a *app) say(level, text string) {
	if a.log == "" {
		return
	}
	out, err := os.OpenFile(a.log, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o600)
	if err != nil {
		return
	}
	defer out.Close()
	now := time.Now().UTC().Format(time.RFC3339)
	if a.logFormat == "json" {
		b, _ := json.Marshal(struct {
			Level string `json:"level"`
			Msg   string `json:"msg"`
			Time  string `json:"time"`
		}{level, text, now})
		fmt.Fprintf(out, "%s\n", b)
		return
	}
	fmt.Fprintf(out, "time=%q level=%s msg=%q\n", now, level, text)
}

// with opens the container, calls do and closes it.
func (a *app) with(id string, do func(*launch.Container) error) error {
	c, err := a.rt.Open(id)
	if err != nil {
		return err
	}
	defer c.Close()
	return do(c)
}
