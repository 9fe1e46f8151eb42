package seccomp

import (
	"encoding/binary"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// data is struct seccomp_data.
type data struct {
	nr, arch uint32
	args     [6]uint64
	blind    bool // answer 1 when an argument is asked for
}

func (d data) bytes() []byte {
	b := make([]byte, 64)
	binary.LittleEndian.PutUint32(b, d.nr)
	binary.LittleEndian.PutUint32(b[4:], d.arch)
	for i, a := range d.args {
		binary.LittleEndian.PutUint64(b[16+8*i:], a)
	}
	return b
}

// eval runs a filter as the kernel does; only what seccomp filters are made of.
func eval(t testing.TB, prog []unix.SockFilter, d data) ret {
	t.Helper()
	mem := d.bytes()
	var acc uint32
	for pc := 0; pc < len(prog); pc++ {
		f := prog[pc]
		switch f.Code {
		case unix.BPF_LD | unix.BPF_W | unix.BPF_ABS:
			if d.blind && f.K >= offArgs {
				return 1
			}
			acc = binary.LittleEndian.Uint32(mem[f.K:])
		case unix.BPF_ALU | unix.BPF_AND | unix.BPF_K:
			acc &= f.K
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(f.K)
		case unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K:
			pc += branch(acc == f.K, f)
		case unix.BPF_JMP | unix.BPF_JGT | unix.BPF_K:
			pc += branch(acc > f.K, f)
		case unix.BPF_JMP | unix.BPF_JGE | unix.BPF_K:
			pc += branch(acc >= f.K, f)
		case unix.BPF_RET | unix.BPF_K:
			return ret(f.K)
		default:
			t.Fatalf("instruction %d has code %#x", pc, f.Code)
		}
	}
	t.Fatal("ran off the end")
	return 0
}

func branch(yes bool, f unix.SockFilter) int {
	if yes {
		return int(f.Jt)
	}
	return int(f.Jf)
}

// numbers are the calls worth asking about: every one any table has, their
// neighbours and the ends.
func numbers() []uint32 {
	var all []uint32
	for n := range uint32(640) {
		all = append(all, n, x32Bit+n, 0x0f0000+n)
	}
	return append(all, x32Bit-1, 1<<31-1, 1<<31, 1<<32-2)
}

var allArchs = [...]specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64, specs.ArchARM}
