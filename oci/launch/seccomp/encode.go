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
	bad := fmt.Errorf("seccomp program of %d bytes: %w", len(b), fs.ErrInvalid)
	if len(b) < headLen || string(b[:len(magic)]) != magic {
		return Program{}, bad
	}
	b = b[len(magic):]
	p := Program{Flags: uint(binary.LittleEndian.Uint32(b)), Notify: b[4] == 1}
	n := binary.LittleEndian.Uint32(b[5:])
	code := b[9:]
	if b[4] > 1 || n == 0 || n > maxLen || len(code) != 8*int(n) {
		return Program{}, bad
	}
	if p.Notify != (p.Flags&unix.SECCOMP_FILTER_FLAG_NEW_LISTENER != 0) {
		return Program{}, bad
	}
	p.Filter = make([]unix.SockFilter, n)
	for i := range p.Filter {
		c := code[8*i:]
		p.Filter[i] = unix.SockFilter{Code: binary.LittleEndian.Uint16(c), Jt: c[2], Jf: c[3], K: binary.LittleEndian.Uint32(c[4:])}
	}
	return p, nil
}
