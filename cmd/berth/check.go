package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/apparmor"
)

// feature is something of the kernel that the daemon uses, found out by trying it.
type feature struct {
	name    string
	try     func() (string, error) // what was found
	without string                 // what happens where it is missing
	needed  bool                   // nothing works without
}

// features lists what is tried. Nothing of it touches the host's mount table, namespaces or cgroups.
func features() []feature {
	return []feature{
		{"root", tryRoot, "no namespaces, mounts or cgroups", true},
		{"cgroups", tryCgroups, "no limits, no way to kill all of a container", true},
		{"memory controller", controller("memory"), "no memory limits, no OOM verdicts", false},
		{"cpu controller", controller("cpu"), "no CPU limits", false},
		{"pids controller", controller("pids"), "no process limits", false},
		{"swap accounting", trySwap, "swap limits are ignored", false},
		{"openat2", tryOpenat2, "paths inside containers can't be resolved safely (Linux 5.6)", true},
		{"pidfd", tryPidfd, "processes can't be told from later ones with their pid (Linux 5.3)", true},
		{"pidfd info", tryPidfdInfo, "exit codes of adopted processes come from their parent only (Linux 6.15)", false},
		{"mount API", tryMountAPI, "no root file systems (Linux 5.2)", true},
		{"overlay", tryOverlay, "no root file systems", true},
		{"overlay layers one by one", tryOverlayLayers, "all are named in one option of mount(2), some 200 at most (Linux 6.7)", false},
		{"overlay layers by descriptor", tryOverlayFD, "id-mapped ones are attached inside a private mount namespace (Linux 6.13)", false},
		{"clone of detached mounts", tryDetachedClone, "pods' /dev/shm is attached inside a private mount namespace (Linux 6.15)", false},
		{"recursive mount attributes", tryRecursive, "no recursive read-only mounts (Linux 5.12)", false},
		{"user namespaces", tryUserNS, "pods that ask for one are refused", false},
		{"idmapped tmpfs", tryIDMap, "pods with user namespaces have no volumes in memory, as secrets are (Linux 6.3)", false},
		{"seccomp filters", trySeccomp, "containers that ask for a profile are refused", false},
		{"nftables", tryNFTables, "no built-in network", false},
		{"AppArmor", exists("/sys/kernel/security/apparmor/profiles"), "pods that ask for a profile are refused", false},
		{"AppArmor's compiler", apparmor.Parser, "containers that ask for no profile of their own are not confined by AppArmor", false},
		{"SELinux", exists("/sys/fs/selinux/enforce"), "labels are ignored", false},
	}
}

// check is the command "check". It fails when something is missing without which nothing works.
func check(io std, args []string) error {
	if len(args) > 0 {
		return usageError{errors.New("takes no arguments")}
	}
	var uts unix.Utsname
	if err := unix.Uname(&uts); err != nil {
		return err
	}
	fmt.Fprintf(io.out, "Linux %s, %s\n\n", unix.ByteSliceToString(uts.Release[:]), unix.ByteSliceToString(uts.Machine[:]))
	w := tabwriter.NewWriter(io.out, 0, 8, 2, ' ', 0)
	lacking := 0
	for _, f := range features() {
		found, err := f.try()
		switch {
		case err == nil:
			fmt.Fprintf(w, "yes\t%s\t%s\n", f.name, found)
		case f.needed:
			lacking++
			fmt.Fprintf(w, "MISSING\t%s\t%s: %s\n", f.name, oneLine(err), f.without)
		default:
			fmt.Fprintf(w, "no\t%s\t%s: %s\n", f.name, oneLine(err), f.without)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if lacking > 0 {
		return fmt.Errorf("%d features are missing without which Berth can't run here", lacking)
	}
	return nil
}

// oneLine keeps a row of the table one: joined errors have a line each.
func oneLine(err error) string { return strings.ReplaceAll(err.Error(), "\n", "; ") }

func tryRoot() (string, error) {
	if os.Geteuid() != 0 {
		return "", fmt.Errorf("uid %d", os.Geteuid())
	}
	hdr := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [2]unix.CapUserData
	if err := unix.Capget(&hdr, &data[0]); err != nil {
		return "", err
	}
	if data[0].Effective&(1<<unix.CAP_SYS_ADMIN) == 0 {
		return "", errors.New("CAP_SYS_ADMIN is missing")
	}
	if data[0].Effective&(1<<unix.CAP_SYS_RESOURCE) == 0 {
		return "without CAP_SYS_RESOURCE: oom_score_adj can't be lowered, limits can't be raised", nil
	}
	return "", nil
}

// cgroupMode says how the cgroup hierarchies are mounted: v1, hybrid, v2, or "" for none.
func cgroupMode() string {
	var st unix.Statfs_t
	if unix.Statfs("/sys/fs/cgroup", &st) != nil {
		return ""
	}
	switch st.Type {
	case unix.CGROUP2_SUPER_MAGIC:
		return "v2"
	case unix.TMPFS_MAGIC:
		if unix.Statfs("/sys/fs/cgroup/unified", &st) == nil && st.Type == unix.CGROUP2_SUPER_MAGIC {
			return "hybrid"
		}
		return "v1"
	}
	return ""
}

func tryCgroups() (string, error) {
	mode := cgroupMode()
	if mode == "" {
		return "", errors.New("nothing is mounted on /sys/fs/cgroup")
	}
	return mode, nil
}

// controller tries one cgroup controller.
func controller(name string) func() (string, error) {
	return func() (string, error) {
		if cgroupMode() != "v2" {
			_, err := os.Stat("/sys/fs/cgroup/" + name)
			return "v1", err
		}
		list, err := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		if err != nil {
			return "", err
		}
		if !strings.Contains(" "+strings.TrimSpace(string(list))+" ", " "+name+" ") {
			return "", errors.New("not in cgroup.controllers")
		}
		return "v2", nil
	}
}

func trySwap() (string, error) {
	if cgroupMode() != "v2" {
		return exists("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes")()
	}
	// The root has no memory.swap.max; any child tells.
	entries, err := os.ReadDir("/sys/fs/cgroup")
	if err != nil {
		return "", err
	}
	for _, e := range entries {
		if _, err := os.Stat("/sys/fs/cgroup/" + e.Name() + "/memory.swap.max"); err == nil {
			return "", nil
		}
	}
	return "", errors.New("no memory.swap.max")
}

func exists(path string) func() (string, error) {
	return func() (string, error) {
		_, err := os.Stat(path)
		return "", err
	}
}

func tryOpenat2() (string, error) {
	fd, err := unix.Openat2(unix.AT_FDCWD, "/", &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err == nil {
		unix.Close(fd)
	}
	return "", err
}

func tryPidfd() (string, error) {
	fd, err := unix.PidfdOpen(os.Getpid(), 0)
	if err == nil {
		unix.Close(fd)
	}
	return "", err
}

// tryNFTables asks for the generation of the rule set.
func tryNFTables() (string, error) {
	fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.NETLINK_NETFILTER)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	const nftMsgGetGen = 16 // linux/netfilter/nf_tables.h
	msg := [20]byte{0: 20, 4: nftMsgGetGen, 5: unix.NFNL_SUBSYS_NFTABLES, 6: unix.NLM_F_REQUEST, 8: 1}
	if err := unix.Sendto(fd, msg[:], 0, &unix.SockaddrNetlink{Family: unix.AF_NETLINK}); err != nil {
		return "", err
	}
	var buf [256]byte
	n, _, err := unix.Recvfrom(fd, buf[:], 0)
	if err != nil {
		return "", err
	}
	if n >= 20 && buf[4] == unix.NLMSG_ERROR && buf[5] == 0 {
		return "", unix.Errno(-int32(uint32(buf[16]) | uint32(buf[17])<<8 | uint32(buf[18])<<16 | uint32(buf[19])<<24))
	}
	return "", nil
}

// holdCommand starts this program as the process whose user namespace check looks at.
const holdCommand = "check-hold"

// hold waits until its stdin ends.
func hold(std, []string) error {
	_, err := io.Copy(io.Discard, os.Stdin)
	return err
}
