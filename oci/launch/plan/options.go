package plan

import (
	"fmt"
	"io/fs"
	"sort"
	"strings"

	"golang.org/x/sys/unix"
)

// options is what the option words of one mount mean.
type options struct {
	bind, recursive  bool
	set, clear       uint64
	recSet, recClear uint64
	propagation      uint64
	copyUp           bool
	idmap, recIDMap  bool
	remount          bool
	super            []string // flags of the file system itself, which a bind cannot change
	data             []string // for the file system
}

// attrWord is an option that sets or clears MOUNT_ATTR_* bits.
type attrWord struct {
	name  string
	bits  uint64
	clear bool
}

// attrWords is a table; it is never written. With an "r" before it each word counts for the whole tree. "rw" is not
// among them as such: on a bind it keeps what the source has, so that a read-only mount of the host stays read-only.
var attrWords = [...]attrWord{
	{"ro", unix.MOUNT_ATTR_RDONLY, false}, {"rw", unix.MOUNT_ATTR_RDONLY, true},
	{"nosuid", unix.MOUNT_ATTR_NOSUID, false}, {"suid", unix.MOUNT_ATTR_NOSUID, true},
	{"nodev", unix.MOUNT_ATTR_NODEV, false}, {"dev", unix.MOUNT_ATTR_NODEV, true},
	{"noexec", unix.MOUNT_ATTR_NOEXEC, false}, {"exec", unix.MOUNT_ATTR_NOEXEC, true},
	{"nodiratime", unix.MOUNT_ATTR_NODIRATIME, false}, {"diratime", unix.MOUNT_ATTR_NODIRATIME, true},
	{"nosymfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, false}, {"symfollow", unix.MOUNT_ATTR_NOSYMFOLLOW, true},
	{"relatime", unix.MOUNT_ATTR_RELATIME, false}, {"norelatime", unix.MOUNT_ATTR_RELATIME, true},
	{"noatime", unix.MOUNT_ATTR_NOATIME, false}, {"atime", unix.MOUNT_ATTR_NOATIME, true},
	{"strictatime", unix.MOUNT_ATTR_STRICTATIME, false}, {"nostrictatime", unix.MOUNT_ATTR_STRICTATIME, true},
}

// atime bits are one choice of several, not flags (mount_setattr(2)).
const atime = unix.MOUNT_ATTR_NOATIME | unix.MOUNT_ATTR_STRICTATIME | unix.MOUNT_ATTR_RELATIME

func propagationWord(s string) uint64 {
	rec := uint64(0)
	if strings.HasPrefix(s, "r") {
		s, rec = s[1:], unix.MS_REC
	}
	switch s {
	case "private":
		return unix.MS_PRIVATE | rec
	case "shared":
		return unix.MS_SHARED | rec
	case "slave":
		return unix.MS_SLAVE | rec
	case "unbindable":
		return unix.MS_UNBINDABLE | rec
	}
	return 0
}

// parseOptions reads the options of a mount: words of mount(8), of the runtime specification ("Linux mount options"),
// and for all others what the file system understands.
func parseOptions(words []string) (options, error) {
	var o options
	for _, w := range words {
		if strings.ContainsRune(w, 0) {
			return o, fmt.Errorf("%q: NUL byte: %w", w, fs.ErrInvalid)
		}
		if o.word(w) {
			continue
		}
		if p := propagationWord(w); p != 0 {
			o.propagation = p
			continue
		}
		if !o.attr(w) {
			o.data = append(o.data, w)
		}
	}
	return o, nil
}

// word handles the options that are neither attributes nor propagation.
func (o *options) word(w string) bool {
	switch w {
	case "bind":
		o.bind = true
	case "rbind":
		o.bind, o.recursive = true, true
	case "tmpcopyup":
		o.copyUp = true
	case "idmap":
		o.idmap = true
	case "ridmap":
		o.idmap, o.recIDMap = true, true
	case "remount":
		o.remount = true
	case "sync", "dirsync", "lazytime", "mand":
		o.super = append(o.super, w)
	case "defaults", "async", "nolazytime", "nomand", "noiversion", "loud", "silent", "iversion", "":
		// What holds anyway. silent asks for fewer messages in the kernel's log. iversion: file systems that count
		// versions of inodes do so always (ext4 since Linux 6.1, tmpfs since 6.3), and fsconfig(2) has no such flag.
	default:
		return false
	}
	return true
}

func (o *options) attr(w string) bool {
	for i := range attrWords {
		a := &attrWords[i]
		switch {
		case w == a.name:
			apply(&o.set, &o.clear, a)
			return true
		case w == "r"+a.name:
			apply(&o.recSet, &o.recClear, a)
			return true
		}
	}
	return false
}

// apply lets the last word win.
func apply(set, clear *uint64, a *attrWord) {
	if a.bits&atime != 0 || a.bits == 0 { // RELATIME is the zero of the atime field
		*set &^= atime
		*clear |= unix.MOUNT_ATTR__ATIME
		if !a.clear {
			*set |= a.bits
		}
		return
	}
	if a.clear {
		*set &^= a.bits
		*clear |= a.bits
		return
	}
	*set |= a.bits
	*clear &^= a.bits
}

// MountOptions lists the words understood by this package, whatever the file system.
func MountOptions() []string {
	out := []string{"async", "bind", "defaults", "dirsync", "idmap", "iversion", "lazytime", "loud", "mand", "noiversion", "nolazytime",
		"nomand", "private", "rbind", "remount", "ridmap", "rprivate", "rshared", "rslave", "runbindable", "shared", "silent", "slave",
		"sync", "tmpcopyup", "unbindable"}
	for _, a := range attrWords {
		out = append(out, a.name, "r"+a.name)
	}
	sort.Strings(out)
	return out
}
