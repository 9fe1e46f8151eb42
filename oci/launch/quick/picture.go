package quick

import "github.com/berth-runtime/berth/oci/launch/program"

// A picture is handed over by the program that executes `exec` to itself as the init: what the one has found out is all that
// the other does. It is one piece of memory without pointers. What it cannot hold is the ordinary program's.

const (
	pictureMagic = 0x62657274
	heapSize     = 120 << 10
	spareSize    = 40 << 10 // beyond what is handed over: lists of pointers, HOME
	maxLimits    = 16
	maxGroups    = 32
)

// span is a string in the heap, or a list of strings one after the other, each with a NUL behind it; then n is their number.
type span struct{ off, n uint32 }

// picture is made of zeros in the beginning.
type picture struct {
	magic, size  uint32 // size: of what is handed over
	pidfd        int32  // of the container's process
	home         bool   // the environment has no HOME
	noNewPrivs   bool
	detach       bool
	user         user
	limits       limits
	caps         program.Capabilities
	mask         uint64 // signals that were blocked
	keyring, cwd span
	args, env    span
	filter       span // n instructions; 0: none
	filterFlags  uint32
	used         uint32
	heap         [heapSize + spareSize]byte
}

type user struct {
	uid, gid, umask, count uint32
	groups                 [maxGroups]uint32
}

type limits struct {
	count int
	list  [maxLimits]program.Rlimit
}

// push appends a byte to the heap.
func (m *picture) push(c byte) bool {
	if m.used >= heapSize {
		return false
	}
	m.heap[m.used] = c
	m.used++
	return true
}

// put appends a string and a NUL.
func (m *picture) put(s string) (span, bool) {
	at := span{m.used, uint32(len(s))}
	if len(s) >= heapSize-int(m.used) {
		return at, false
	}
	m.used += uint32(copy(m.heap[m.used:], s))
	return at, m.push(0)
}

// align makes the heap's end a multiple of eight.
func (m *picture) align() { m.used = (m.used + 7) &^ 7 }

// next is the string that begins at off, and where the one after it begins.
func (m *picture) next(off uint32) (string, uint32) {
	end := off
	for m.heap[end] != 0 {
		end++
	}
	return m.str(span{off, end - off}), end + 1
}

// variable is the last value of a name in the environment.
func (m *picture) variable(name string) (value string, ok bool) {
	for i, off := uint32(0), m.env.off; i < m.env.n; i++ {
		var s string
		s, off = m.next(off)
		if len(s) > len(name) && s[len(name)] == '=' && s[:len(name)] == name {
			value, ok = s[len(name)+1:], true
		}
	}
	return value, ok
}
