package seccomp

import (
	"encoding/binary"
	"fmt"
	"io/fs"

	"golang.org/x/sys/unix"
)

// magic begins an encoded program; its number changes with the compiler's
// answers, so that programs of older ones are not taken for its own.
const magic = "berthbpf2\n"

// headLen is the magic, flags, notify and the number of instructions.
const headLen = len(magic) + 4 + 1 + 4

// Encode writes a program for keeping on disk. Equal programs have equal
// encodings.
func Encode(p Program) []byte {
	b := make([]byte, 0, headLen+8*len(p.Filter))
	b = append(b, magic...)
	b = binary.LittleEndian.AppendUint32(b, uint32(p.Flags))
	b = append(b, map[bool]byte{true: 1}[p.Notify])
	b = binary.LittleEndian.AppendUint32(b, uint32(len(p.Filter)))
	for _, f := range p.Filter {
		b = binary.LittleEndian.AppendUint16(b, f.Code)
		b = append(b, f.Jt, f.Jf)
		b = binary.LittleEndian.AppendUint32(b, f.K)
	}
	return b
}

// Decode reads what Encode wrote, and wraps fs.ErrInvalid for anything else.
// The kernel checks the program itself.
func Decode(b []byte) (Program, error) {
	flags, code, ok := Split(b)
	if !ok {
		return Program{}, fmt.Errorf("seccomp program of %d bytes: %w", len(b), fs.ErrInvalid)
	}
	p := Program{Flags: flags, Notify: flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0, Filter: make([]unix.SockFilter, len(code)/8)}
	for i := range p.Filter {
		c := code[8*i:]
		p.Filter[i] = unix.SockFilter{Code: binary.LittleEndian.Uint16(c), Jt: c[2], Jf: c[3], K: binary.LittleEndian.Uint32(c[4:])}
	}
	return p, nil
}

// Split finds flags and instructions in what Encode wrote: 8 bytes each, on
// little-endian machines as the kernel takes them. Like Unpack it is for
// package quick, too, and does not allocate.
func Split(b []byte) (flags uint, code []byte, ok bool) {
	if len(b) < headLen || string(b[:len(magic)]) != magic {
		return 0, nil, false
	}
	b = b[len(magic):]
	flags = uint(binary.LittleEndian.Uint32(b))
	n := binary.LittleEndian.Uint32(b[5:])
	code = b[9:]
	if b[4] > 1 || n == 0 || n > maxLen || len(code) != 8*int(n) {
		return 0, nil, false
	}
	return flags, code, (b[4] == 1) == (flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0)
}

// Unpack takes a file of the cache apart: the profile's length, the profile,
// the encoded program, and a checksum (CRC-32C) of all that, which is the
// caller's to compare.
func Unpack(b []byte) (profile, program []byte, sum uint32, ok bool) {
	if len(b) < 8 {
		return nil, nil, 0, false
	}
	b, tail := b[:len(b)-4], b[len(b)-4:]
	n := uint64(binary.LittleEndian.Uint32(b))
	if n > uint64(len(b)-4) {
		return nil, nil, 0, false
	}
	return b[4 : 4+n], b[4+n:], binary.LittleEndian.Uint32(tail), true
}
