//go:build amd64

package quick

import "unsafe"

// memory is where the picture is, and blob a large file; both are zeros in the beginning.
func memory() *picture

func large() *blob

// blob is a file that is larger than most.
type blob struct {
	size int
	text [512 << 10]byte
}

func (b *blob) string() string { return unsafe.String(&b.text[0], b.size) }

func (b *blob) bytes() []byte { return unsafe.Slice(&b.text[0], b.size) }

// read reads a descriptor to its end and closes it.
func (b *blob) read(fd int) bool {
	b.size = 0
	for {
		got := call(sysRead, uintptr(fd), uintptr(unsafe.Pointer(&b.text))+uintptr(b.size), uintptr(len(b.text)-b.size))
		if got == -eintr {
			continue
		}
		if got > 0 {
			b.size += got
		}
		if got <= 0 || b.size == len(b.text) {
			call(sysClose, uintptr(fd), 0, 0)
			return got == 0
		}
	}
}

func (m *picture) at(off uint32) uintptr { return uintptr(unsafe.Pointer(&m.heap[off])) }

func (m *picture) length() uint32 { return uint32(unsafe.Offsetof(m.heap)) + m.used }

// send hands the picture over; false when it does not go in at once, for nobody reads yet.
func (m *picture) send(fd int) bool {
	const flags = 0x4040 // MSG_DONTWAIT, MSG_NOSIGNAL
	m.magic, m.size = pictureMagic, m.length()
	n := int(syscall6(sysSendto, uintptr(fd), uintptr(unsafe.Pointer(m)), uintptr(m.size), flags, 0, 0))
	return n == int(m.size)
}

// receive reads it.
func (m *picture) receive(fd int) bool {
	have, want := 0, int(unsafe.Offsetof(m.heap))
	for have < want {
		got := call(sysRead, uintptr(fd), uintptr(unsafe.Pointer(m))+uintptr(have), uintptr(want-have))
		if got == -eintr {
			continue
		}
		if got <= 0 {
			return false
		}
		if have += got; have == int(unsafe.Offsetof(m.heap)) && want == have {
			if m.magic != pictureMagic || m.used > heapSize || m.size != m.length() {
				return false
			}
			want = int(m.size)
		}
	}
	return true
}

// vector makes a list of pointers to the strings of a list, and has it end with a string of its own, if there is one, and a nil.
func (m *picture) vector(list span, last uintptr) **byte {
	m.align()
	at := m.used
	for i, off := uint32(0), list.off; i < list.n; i++ {
		begin := off
		_, off = m.next(off)
		m.pointer(m.at(begin))
	}
	if last != 0 {
		m.pointer(last)
	}
	m.pointer(0)
	return (**byte)(unsafe.Pointer(&m.heap[at]))
}

func (m *picture) pointer(p uintptr) {
	*(*uintptr)(unsafe.Pointer(&m.heap[m.used])) = p
	m.used += 8
}

// vectors is how much room the init needs for its lists and for HOME.
func (m *picture) vectors() int { return 8*int(m.args.n+m.env.n+8) + homeSize }

// What entry_amd64.s sets aside has to be enough.
const (
	_ = uint(165888 - unsafe.Sizeof(picture{}))
	_ = uint(524296 - unsafe.Sizeof(blob{}))
)
