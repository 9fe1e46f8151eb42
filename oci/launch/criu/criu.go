// Package criu writes the state of a container's processes with CRIU (criu(8)), the way `berth-oci checkpoint` asks for it.
//
// All that is decided here is what of the container is external: mounts that show a part of another file system, and
// namespaces that it shares with others of its pod. CRIU is a program in PATH, version 3.17 at least; what it lacks, or what
// the kernel lacks for it, is in the errors. Restoring is not done: the CRI has no call for it, and the images are CRIU's own.
package criu

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Options say what becomes of a container's state and of the container.
type Options struct {
	Images string // directory of CRIU's images; made where missing
	Work   string // of its log, dump.log, and statistics; "": Images
	// LeaveRunning lets the container go on; otherwise it is killed.
	LeaveRunning bool
	// TCPEstablished, UnixSockets and FileLocks admit what can't be restored everywhere: connections, sockets to others, locks.
	TCPEstablished, UnixSockets, FileLocks bool
}

// Dump writes the state of the processes below pid, a container's first. Mounts that come from outside the container, and the
// namespaces it shares, are external: named, not written. That it can be done is because the processes hold nothing of the
// host: their root is their own overlay and their null device the one in it.
func Dump(ctx context.Context, pid int, o Options) error {
	program, err := exec.LookPath("criu")
	if err != nil {
		return fmt.Errorf("criu is not in PATH: %w", errors.ErrUnsupported)
	}
	if o.Work == "" {
		o.Work = o.Images
	}
	for _, dir := range []string{o.Images, o.Work} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return err
		}
	}
	args, err := dumpArgs(pid, o)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.WaitDelay = 10 * time.Second
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("criu dump: %w: %s", err, complaint(filepath.Join(o.Work, "dump.log"), said.Bytes()))
	}
	return nil
}

// dumpArgs is the command line of CRIU for a process and what it shares with others.
func dumpArgs(pid int, o Options) ([]string, error) {
	args := []string{"dump", "--tree", strconv.Itoa(pid), "--images-dir", o.Images, "--work-dir", o.Work, "--log-file", "dump.log", "-v4",
		"--manage-cgroups=ignore", "--network-lock=nftables", "--root", fmt.Sprintf("/proc/%d/root", pid)}
	for flag, on := range map[string]bool{"--leave-running": o.LeaveRunning, "--tcp-established": o.TCPEstablished, "--ext-unix-sk": o.UnixSockets, "--file-locks": o.FileLocks} {
		if on {
			args = append(args, flag)
		}
	}
	mounts, err := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", pid))
	if err != nil {
		return nil, err
	}
	for _, at := range externalMounts(mounts) {
		args = append(args, "--external", "mnt["+at+"]:"+at)
	}
	for ns, name := range map[string]string{"net": "extRootNetNS", "pid": "extRootPidNS"} {
		inode, shared, err := sharedNamespace(pid, ns)
		if err != nil {
			return nil, err
		}
		if shared {
			args = append(args, "--external", ns+"["+inode+"]:"+name)
		}
	}
	return args, nil
}

// sharedNamespace returns the inode of a process's namespace, and whether it is neither the host's nor the container's own: the
// network of a pod, or a PID namespace in which the process is not the first.
func sharedNamespace(pid int, ns string) (inode string, shared bool, err error) {
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, ns))
	if err != nil {
		return "", false, err
	}
	ours, err := os.Readlink("/proc/self/ns/" + ns)
	if err != nil || its == ours {
		return "", false, err
	}
	inode = strings.TrimSuffix(its[strings.IndexByte(its, '[')+1:], "]")
	if ns != "pid" {
		return inode, true, nil
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return "", false, err
	}
	for l := range strings.Lines(string(status)) {
		if v, ok := strings.CutPrefix(l, "NSpid:"); ok {
			f := strings.Fields(v)
			return inode, f[len(f)-1] != "1", nil
		}
	}
	return inode, false, nil
}

// externalMounts are the mounts of a container that are not made of nothing: those that show a part of another file system, a
// volume or a cgroup, and what lies below /dev and /sys besides the pseudo file systems that CRIU makes anew. mountinfo: proc(5).
func externalMounts(mountinfo []byte) []string {
	var out []string
	lines := bufio.NewScanner(bytes.NewReader(mountinfo))
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		f := strings.Fields(lines.Text())
		dash := slices.Index(f, "-")
		if len(f) < 7 || dash < 0 || dash+1 >= len(f) || f[4] == "/" {
			continue
		}
		root, at, kind := f[3], unescape(f[4]), f[dash+1]
		switch {
		case root == "/" && (kind == "proc" || kind == "sysfs" || kind == "devpts" || kind == "mqueue"):
		case root == "/" && kind == "tmpfs" && at == "/dev":
		default:
			out = append(out, at)
		}
	}
	return out
}

// unescape undoes the octal escapes of mountinfo.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// complaint is what CRIU's log ends with: its last errors but the one that says that it has failed. Earlier ones need not
// matter, such as that a limit could not be raised. Without a log it is the last thing that was said.
func complaint(log string, said []byte) string {
	b, err := os.ReadFile(log)
	if err != nil {
		b = said
	}
	last, faults := "", []string(nil)
	for l := range strings.Lines(string(b)) {
		if i := strings.Index(l, "rror (criu/"); i >= 0 && !strings.Contains(l, "Dumping FAILED") {
			faults = append(faults, strings.TrimSpace(l[i+5:]))
		}
		last = l
	}
	if len(faults) == 0 {
		return strings.TrimSpace(last)
	}
	return strings.Join(faults[max(0, len(faults)-3):], "; ")
}
