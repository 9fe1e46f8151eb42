// Command oci drives OCI runtimes in turn through whole lives of one bundle (busybox `true`, all namespaces, the default
// seccomp profile, the mounts that pods have) and through exec, and prints for each phase minimum and median of the wall
// time, the ratio of the medians to the first runtime's, and for each program the CPU time and the peak resident memory.
//
//	go run ./hack/bench/oci -n 100 -busybox /bin/busybox berth-oci=bin/berth-oci runc=.cache/peers/runc
//
// Runtimes take turns life by life, so that a drift of the machine's speed meets all alike. The command is the subreaper
// of all it starts: what a runtime leaves behind is reaped and counted with it. "create + start + delete" is the sum of
// the three commands; the time `true` itself takes to end lies between the last two and is in no wall time, but is in the
// CPU time. Lives are -gap apart: back to back runs hide the kernel's RCU waits.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

type options struct {
	n       int
	gap     time.Duration
	dir     string
	busybox string
	time    string
}

// peer is one runtime and what has been measured of it.
type peer struct {
	name, bin, root, bundle string
	phases                  map[string]*series
	time                    string // weigh commands with this
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 50, "lives, and execs, of each runtime")
	flag.DurationVar(&o.gap, "gap", 0, "pause before each life and each exec")
	flag.StringVar(&o.dir, "dir", "", "directory for bundles and state, best on a tmpfs; a new temporary one when empty")
	flag.StringVar(&o.busybox, "busybox", "/bin/busybox", "static busybox, the payload")
	flag.StringVar(&o.time, "time", "/usr/bin/time", "GNU time, which weighs the commands in three more rounds; empty: no memory is measured")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options, args []string) error {
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl", err)
	}
	if o.dir == "" {
		dir, err := os.MkdirTemp("", "bench-oci")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		o.dir = dir
	}
	peers, err := open(o, args)
	if err != nil {
		return err
	}
	defer removeCgroups()
	rounds := [...]func(*peer, int) error{(*peer).life, (*peer).exec}
	for k, round := range rounds {
		for _, p := range peers {
			if k == 1 {
				if err := p.resident(); err != nil {
					return fmt.Errorf("%s: %w", p.name, err)
				}
				defer p.end()
			}
		}
		for i := range o.n + 2 { // the first two fill caches
			for _, p := range peers {
				time.Sleep(o.gap)
				if err := round(p, i); err != nil {
					return fmt.Errorf("%s: round %d: %w", p.name, i, err)
				}
				if i == 1 {
					p.forget(k)
				}
			}
		}
		if err := weigh(o, peers, round); err != nil {
			return err
		}
	}
	report(os.Stdout, o, peers)
	return nil
}

// weigh goes three more rounds for the commands' memory, which are in no other figure. The kernel counts to a child what its
// parent had at the fork, and this program has more than most runtimes, so another one has to be in between.
func weigh(o options, peers []*peer, round func(*peer, int) error) error {
	for _, p := range peers {
		p.time = o.time
		for i := 0; i < 3 && o.time != ""; i++ {
			if err := round(p, -i-1); err != nil {
				return fmt.Errorf("%s: weighed: %w", p.name, err)
			}
		}
		p.time = ""
	}
	return nil
}

func open(o options, args []string) ([]*peer, error) {
	if len(args) == 0 {
		return nil, fmt.Errorf("no runtimes: want arguments name=program")
	}
	var peers []*peer
	for _, a := range args {
		name, bin, ok := strings.Cut(a, "=")
		if !ok {
			return nil, fmt.Errorf("runtime %q: want name=program", a)
		}
		bin, err := filepath.Abs(bin)
		if err != nil {
			return nil, err
		}
		p := &peer{name: name, bin: bin, root: o.dir + "/" + name + "/root", bundle: o.dir + "/" + name, phases: map[string]*series{}}
		if err := makeBundle(p.bundle+"/true", o.busybox, "true"); err != nil {
			return nil, err
		}
		if err := makeBundle(p.bundle+"/sleep", o.busybox, "sleep", "100000"); err != nil {
			return nil, err
		}
		peers = append(peers, p)
	}
	return peers, nil
}

// phases in the order of the table; those that begin with a blank are sums of others.
var phases = [...]string{"create", "start", "delete", total, "exec"}

const (
	total   = " create + start + delete"
	ownInit = "container process"
	strays  = "others left behind"
)

// life is one container from create to delete.
func (p *peer) life(i int) error {
	id := fmt.Sprintf("life%+d", i)
	var sum sample
	for _, phase := range [...]string{"create", "start", "delete"} {
		args := []string{"--root", p.root, phase, id}
		if phase == "create" {
			args = []string{"--root", p.root, "create", "--bundle", p.bundle + "/true", "--pid-file", p.bundle + "/pid", id}
		}
		s, err := p.command(args)
		if err != nil {
			return fmt.Errorf("%s: %w", phase, err)
		}
		p.add(phase, s)
		sum.wall += s.wall
		sum.cpu += s.cpu
		if phase == "start" {
			s, err := p.reapInit()
			if err != nil {
				return err
			}
			p.add(ownInit, s)
			sum.cpu += s.cpu
		}
	}
	rest := reapAll()
	p.add(strays, rest)
	sum.cpu += rest.cpu
	p.add(total, sum)
	return nil
}

// exec runs one program in the container that sleeps.
func (p *peer) exec(int) error {
	s, err := p.command([]string{"--root", p.root, "exec", "resident", "true"})
	if err != nil {
		return fmt.Errorf("exec: %w", err)
	}
	rest := reapAll()
	s.cpu += rest.cpu
	p.add("exec", s)
	return nil
}

// resident makes the container that the execs go to.
func (p *peer) resident() error {
	if _, err := p.command([]string{"--root", p.root, "create", "--bundle", p.bundle + "/sleep", "resident"}); err != nil {
		return fmt.Errorf("create: %w", err)
	}
	_, err := p.command([]string{"--root", p.root, "start", "resident"})
	return err
}

func (p *peer) end() {
	if _, err := p.command([]string{"--root", p.root, "delete", "--force", "resident"}); err != nil {
		fmt.Fprintf(os.Stderr, "bench: %s: %v\n", p.name, err)
	}
	time.Sleep(50 * time.Millisecond)
	reapAll()
}
