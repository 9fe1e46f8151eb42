// Package leak tells what a test left on the machine. A Snapshot lists everything a container runtime can leave:
// processes, mounts, pinned network namespaces, cgroups of all hierarchies, links, nftables and iptables rules, files.
// Two snapshots are compared as multisets of descriptions that hold no numbers that change by themselves (process
// ids, handles, counters), so a daemon that was restarted in between is not a leak, and a second copy of it is.
//
// Take a snapshot before, run, then Settle: what is still there after a while was left. Run it in namespaces of
// its own (hack/testns.sh), where nothing else comes and goes; cgroups have no such walls, so only those whose path
// looks like a runtime's are looked at.
package leak

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options says which files belong to the runtime.
type Options struct {
	Dirs   []string // trees whose entries count
	Except []string // trees below them that don't: the image store grows by pulling
	Cgroup string   // only cgroups below this path count; empty: all that look like a runtime's
}

// Snapshot counts descriptions: "mount: overlay /x" -> 1.
type Snapshot map[string]int

// Take looks at everything. What vanishes while it looks is not there.
func Take(o Options) (Snapshot, error) {
	s := Snapshot{}
	for _, look := range []func(Snapshot) error{processes, mounts, namespaces, links, rules} {
		if err := look(s); err != nil {
			return nil, err
		}
	}
	if err := s.cgroups(o.Cgroup); err != nil {
		return nil, err
	}
	for _, d := range o.Dirs {
		if err := s.files(d, o.Except); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// Since lists what s has more of than before, sorted.
func (s Snapshot) Since(before Snapshot) []string {
	var out []string
	for what, n := range s {
		if more := n - before[what]; more == 1 {
			out = append(out, what)
		} else if more > 1 {
			out = append(out, fmt.Sprintf("%s (%d times)", what, more))
		}
	}
	slices.Sort(out)
	return out
}

// Settle compares now with before until nothing is left or the time is up, and returns what is left.
func Settle(before Snapshot, o Options, within time.Duration) ([]string, error) {
	for end := time.Now().Add(within); ; time.Sleep(100 * time.Millisecond) {
		now, err := Take(o)
		if err != nil {
			return nil, err
		}
		left := now.Since(before)
		if len(left) == 0 || time.Now().After(end) {
			return left, nil
		}
	}
}

// processes are known by their command lines. Zombies have none and count by name: nobody reaped them.
func processes(s Snapshot) error {
	dirs, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return err
	}
	for _, d := range dirs {
		line, err := os.ReadFile(filepath.Join(d, "cmdline"))
		if err != nil || filepath.Base(d) == strconv.Itoa(os.Getpid()) {
			continue
		}
		name := strings.TrimSpace(string(bytes.ReplaceAll(line, []byte{0}, []byte{' '})))
		if name == "" {
			stat, err := os.ReadFile(filepath.Join(d, "stat"))
			_, after, ok := strings.Cut(string(stat), ") ")
			if err != nil || !ok || !strings.HasPrefix(after, "Z") {
				continue // a kernel thread, or gone
			}
			comm, _ := os.ReadFile(filepath.Join(d, "comm"))
			name = strings.TrimSpace(string(comm)) + " (zombie)"
		}
		s["process: "+name]++
	}
	return nil
}

// mounts of this mount namespace: fields of proc_pid_mountinfo(5).
func mounts(s Snapshot) error {
	return eachLine("/proc/self/mountinfo", func(l string) {
		left, right, ok := strings.Cut(l, " - ")
		f, g := strings.Fields(left), strings.Fields(right)
		if ok && len(f) > 4 && len(g) > 0 {
			s["mount: "+g[0]+" on "+f[4]]++
		}
	})
}

func namespaces(s Snapshot) error {
	names, err := os.ReadDir("/run/netns")
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, n := range names {
		s["netns: /run/netns/"+n.Name()]++
	}
	return err
}

// ownCgroup matches the paths runtimes and this suite make; other cgroups belong to the machine.
var ownCgroup = regexp.MustCompile(`/berth(-e2e|-demo|-leak[^/]*)?(/|$)|kubepods|[0-9a-f]{64}|k8s\.io`)

func (s Snapshot) cgroups(below string) error {
	var roots []string
	err := eachLine("/proc/self/mountinfo", func(l string) {
		left, right, _ := strings.Cut(l, " - ")
		if f := strings.Fields(left); strings.HasPrefix(right, "cgroup") && len(f) > 4 {
			roots = append(roots, f[4])
		}
	})
	for _, root := range roots {
		filepath.WalkDir(root, func(p string, d fs.DirEntry, err error) error {
			path := strings.TrimPrefix(p, root)
			if err == nil && d.IsDir() && strings.HasPrefix(path, below) && ownCgroup.MatchString(path) {
				s["cgroup: "+p]++
			}
			return nil // it may have gone meanwhile
		})
	}
	return err
}

// links: names of veths are random, so they count by kind.
func links(s Snapshot) error {
	all, err := net.Interfaces()
	for _, l := range all {
		s["link: "+l.Name]++
	}
	return err
}

// rules without state, that is without counters and handles. Each line is named with the table and chain it stands in.
func rules(s Snapshot) error {
	out, err := exec.Command("nft", "-s", "list", "ruleset").Output()
	if err != nil {
		return fmt.Errorf("nft list ruleset: %w", err)
	}
	var in []string
	for l := range strings.Lines(string(out)) {
		l = strings.TrimSpace(l)
		switch {
		case l == "" || strings.HasPrefix(l, "#"):
		case l == "}":
			in = in[:max(0, len(in)-1)]
		default:
			s["nft: "+strings.Join(append(slices.Clone(in), l), " ")]++
			if strings.HasSuffix(l, "{") {
				in = append(in, strings.TrimSuffix(l, " {"))
			}
		}
	}
	return nil
}

func (s Snapshot) files(dir string, except []string) error {
	return filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return nil
		case err != nil:
			return err
		case slices.Contains(except, p):
			return fs.SkipDir
		}
		s["file: "+p]++
		return nil
	})
}

func eachLine(name string, f func(string)) error {
	r, err := os.Open(name)
	if err != nil {
		return err
	}
	defer r.Close()
	in := bufio.NewScanner(r)
	for in.Scan() {
		f(in.Text())
	}
	return in.Err()
}
