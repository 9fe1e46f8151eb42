package seccomp

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	moby "github.com/moby/profiles/seccomp"
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// oracle is libseccomp behind a small program.
type oracle struct {
	bin   string
	known map[specs.Arch]map[string]int
}

var scmpNames = map[specs.Arch]string{specs.ArchX86_64: "x86_64", specs.ArchX86: "x86", specs.ArchX32: "x32",
	specs.ArchAARCH64: "aarch64", specs.ArchARM: "arm"}

func newOracle(t *testing.T) *oracle {
	t.Helper()
	o := &oracle{bin: filepath.Join(t.TempDir(), "oracle"), known: map[specs.Arch]map[string]int{}}
	if out, err := exec.Command("gcc", "-O1", "-o", o.bin, "testdata/oracle.c", "-lseccomp").CombinedOutput(); err != nil {
		if os.Getenv("BERTH_ORACLE") == "required" {
			t.Fatalf("gcc and libseccomp-dev: %v: %s", err, out)
		}
		t.Skipf("needs gcc and libseccomp-dev: %v: %.200s", err, out)
	}
	own, err := native()
	if err != nil || own != specs.ArchX86_64 {
		t.Skip("the comparison is written for x86-64")
	}
	for _, name := range allArchs {
		a, _ := archOf(name)
		var in strings.Builder
		for _, c := range a.names {
			fmt.Fprintln(&in, c.name)
		}
		cmd := exec.Command(o.bin, scmpNames[name])
		cmd.Stdin = strings.NewReader(in.String())
		out, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		o.known[name] = map[string]int{}
		for line := range strings.Lines(string(out)) {
			var call string
			var nr int
			if _, err := fmt.Sscan(line, &call, &nr); err != nil {
				t.Fatal(err)
			}
			o.known[name][call] = nr
		}
	}
	return o
}

// knows reports whether this libseccomp agrees with our tables on a name
// everywhere; an older release lacks newer calls on some architectures.
func (o *oracle) knows(call string, archs []specs.Arch) bool {
	for _, name := range archs {
		a, _ := archOf(name)
		nr, ours := a.lookup(call)
		theirs, ok := o.known[name][call]
		_, _, mux := muxed(call)
		if ours && (!ok || theirs != int(nr)) && !(a.mux && mux) {
			return false
		}
	}
	return o.known[specs.ArchX86_64][call] != 0 || call == "read" || anyKnown(o, call)
}

func anyKnown(o *oracle, call string) bool {
	for _, m := range o.known {
		if _, ok := m[call]; ok {
			return true
		}
	}
	return false
}

// build has libseccomp make the filter runc would ask it for.
func (o *oracle) build(t *testing.T, p *profile) ([]unix.SockFilter, bool) {
	t.Helper()
	var in bytes.Buffer
	fmt.Fprintf(&in, "default %d\n", p.def)
	for _, a := range p.archs {
		fmt.Fprintf(&in, "arch %s\n", scmpNames[a])
	}
	ops := []specs.LinuxSeccompOperator{1: specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	for _, r := range p.rules {
		if r.ret == p.def {
			continue
		}
		for _, name := range r.names {
			sets := r.sets
			if len(sets) == 0 {
				sets = [][]cond{nil}
			}
			for _, set := range sets {
				fmt.Fprintf(&in, "rule %d %s %d", r.ret, name, len(set))
				for _, c := range set {
					a, b := c.value, uint64(0)
					if c.op == specs.OpMaskedEqual {
						a, b = c.mask, c.value
					}
					fmt.Fprintf(&in, " %d %d %d %d", c.index, slices.Index(ops, c.op), a, b)
				}
				fmt.Fprintln(&in)
			}
		}
	}
	cmd := exec.Command(o.bin)
	cmd.Stdin = &in
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Logf("libseccomp refuses: %v %s", err, stderr.String())
		return nil, false
	}
	var prog []unix.SockFilter
	for b := out; len(b) >= 8; b = b[8:] {
		prog = append(prog, unix.SockFilter{Code: binary.LittleEndian.Uint16(b), Jt: b[2], Jf: b[3], K: binary.LittleEndian.Uint32(b[4:])})
	}
	return prog, !forgetful(prog)
}

// forgetful reports a mistake of libseccomp 2.5.4: with a call first in its list
// that the architecture lacks, it leaves out the load of the number and goes on
// to compare numbers with the architecture.
func forgetful(prog []unix.SockFilter) bool {
	for i, f := range prog {
		if f.Code != unix.BPF_JMP|unix.BPF_JEQ|unix.BPF_K || f.K != unix.AUDIT_ARCH_X86_64 && f.K != unix.AUDIT_ARCH_I386 &&
			f.K != unix.AUDIT_ARCH_AARCH64 && f.K != unix.AUDIT_ARCH_ARM {
			continue
		}
		to := prog[i+1+int(f.Jt)]
		if to.Code == unix.BPF_JMP|unix.BPF_JA {
			to = prog[i+1+int(f.Jt)+1+int(to.K)]
		}
		if to.Code&7 != unix.BPF_LD && to.Code&7 != unix.BPF_RET {
			return true
		}
	}
	return false
}

// compare asks both filters about every call on every architecture with
// arguments around every value the profile names, and reports whether libseccomp
// had a filter to compare with.
func (o *oracle) compare(t *testing.T, spec *specs.LinuxSeccomp) bool {
	t.Helper()
	p, err := parse(spec, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	p.stub = false // libseccomp has none
	theirs, ok := o.build(t, p)
	if !ok {
		return false
	}
	if bad := differences(t, p.assemble(), theirs, arguments(p), 10); len(bad) > 0 {
		js, _ := json.Marshal(spec)
		t.Errorf("differences for %.3000s:\n%s", js, strings.Join(bad, "\n"))
	}
	return true
}

// differences asks two filters about every call on every architecture, and lists at most some on which they disagree.
func differences(t *testing.T, ours, theirs []unix.SockFilter, args [][6]uint64, most int) (bad []string) {
	t.Helper()
	for _, audit := range []uint32{unix.AUDIT_ARCH_X86_64, unix.AUDIT_ARCH_I386, unix.AUDIT_ARCH_AARCH64, unix.AUDIT_ARCH_ARM, unix.AUDIT_ARCH_RISCV64} {
		for _, nr := range numbers() {
			few := args
			if blind := (data{nr: nr, arch: audit, blind: true}); eval(t, ours, blind) != 1 && eval(t, theirs, blind) != 1 {
				few = args[:3] // no arguments are looked at
			}
			for _, a := range few {
				d := data{nr: nr, arch: audit, args: a}
				if got, want := eval(t, ours, d), eval(t, theirs, d); got != want {
					bad = append(bad, fmt.Sprintf("arch %#x call %d(%#x) args %x: %#x, libseccomp says %#x", audit, nr&^x32Bit, nr, a, got, want))
					if len(bad) >= most {
						return bad
					}
				}
			}
		}
	}
	return bad
}

// arguments are vectors that take values at and around those of the conditions.
func arguments(p *profile) [][6]uint64 {
	values := map[int][]uint64{}
	for _, r := range p.rules {
		for _, set := range r.sets {
			for _, c := range set {
				v := c.value
				values[c.index] = append(values[c.index], v, v-1, v+1, v^1<<32, v|^c.mask, c.mask, ^c.mask, v+1<<32)
			}
		}
	}
	random := rand.New(rand.NewPCG(1, 2))
	out := append([][6]uint64{{}, {^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0), ^uint64(0)}}, boundaries(p)...)
	for call := range uint64(25) {
		out = append(out, [6]uint64{call, 40, 38, 16})
	}
	for range 150 {
		var a [6]uint64
		for i := range a {
			if list := values[i]; len(list) > 0 {
				a[i] = list[random.IntN(len(list))]
			} else {
				a[i] = random.Uint64() >> random.IntN(64)
			}
		}
		out = append(out, a)
	}
	return out
}

// boundaries takes each condition to and around its value, with the other conditions of its rule holding.
func boundaries(p *profile) (out [][6]uint64) {
	for _, r := range p.rules {
		for _, set := range r.sets {
			var holding [6]uint64
			for _, c := range set {
				holding[c.index] = c.value
				switch c.op {
				case specs.OpNotEqual, specs.OpGreaterThan:
					holding[c.index]++
				case specs.OpLessThan:
					holding[c.index]--
				}
			}
			out = append(out, holding)
			for _, c := range set {
				v := c.value
				for _, at := range []uint64{v - 1, v, v + 1, v ^ 1<<32, v + 1<<32, v - 1<<32, v | ^c.mask, v ^ c.mask&-c.mask, 0, ^uint64(0)} {
					a := holding
					a[c.index] = at
					out = append(out, a)
				}
			}
		}
	}
	return out
}

// mobyProfile is the default profile for a container with these capabilities.
func mobyProfile(t testing.TB, caps ...string) *specs.LinuxSeccomp {
	t.Helper()
	p, err := moby.GetDefaultProfile(&specs.Spec{Process: &specs.Process{Capabilities: &specs.LinuxCapabilities{Bounding: caps}}})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// agreed leaves out names on which the installed libseccomp is too old.
func (o *oracle) agreed(t *testing.T, p *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	c := *p
	c.Syscalls = nil
	var dropped []string
	for _, s := range p.Syscalls {
		names := s.Names
		s.Names = nil
		for _, n := range names {
			if o.knows(n, allArchs[:]) {
				s.Names = append(s.Names, n)
			} else {
				dropped = append(dropped, n)
			}
		}
		if len(s.Names) > 0 {
			c.Syscalls = append(c.Syscalls, s)
		}
	}
	t.Logf("not compared: %v", dropped)
	return &c
}

func TestTablesAgainstLibseccomp(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	for _, name := range allArchs {
		a, _ := archOf(name)
		both := 0
		for _, c := range a.names {
			theirs, ok := o.known[name][c.name]
			_, _, mux := muxed(c.name)
			if !ok || theirs < 0 && a.mux && mux {
				continue
			}
			if theirs < 0 {
				t.Logf("%s %s: %d, libseccomp has none", name, c.name, c.nr)
				continue
			}
			if both++; theirs != int(c.nr) {
				t.Errorf("%s %s: %d, libseccomp says %d", name, c.name, c.nr, theirs)
			}
		}
		t.Logf("%s: %d calls, %d known to both", name, len(a.names), both)
	}
}

func TestDefaultProfileAgainstLibseccomp(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	for _, caps := range [][]string{nil, {"CAP_SYS_ADMIN", "CAP_SYS_PTRACE", "CAP_NET_ADMIN"}} {
		p := o.agreed(t, mobyProfile(t, caps...))
		o.compare(t, p)
		p.Architectures = []specs.Arch{specs.ArchX86_64}
		o.compare(t, p)
		p.Architectures = append(p.Architectures, specs.ArchAARCH64, specs.ArchARM, specs.ArchX86)
		o.compare(t, p)
	}
}

// TestOracleSeesBrokenCompilers breaks our filters in the ways a compiler would, one instruction at a time, and demands
// that the comparison sees it. What changes no answer is no mistake: it is told apart by asking the sound filter.
func TestOracleSeesBrokenCompilers(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	spec := o.agreed(t, mobyProfile(t))
	spec.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32, specs.ArchAARCH64}
	p, err := parse(spec, specs.ArchX86_64)
	if err != nil {
		t.Fatal(err)
	}
	p.stub = false
	theirs, ok := o.build(t, p)
	if !ok {
		t.Fatal("libseccomp made no filter")
	}
	ours, args := p.assemble(), arguments(p)
	broken, seen, same := 0, 0, 0
	for i := range ours {
		if i%19 != 0 && os.Getenv("ATTACK_LONG") == "" {
			continue
		}
		for _, f := range mistakes(ours[i]) {
			mutant := slices.Clone(ours)
			mutant[i] = f
			if i+1+int(max(f.Jt, f.Jf)) >= len(ours) {
				continue
			}
			broken++
			switch {
			case len(differences(t, mutant, theirs, args, 1)) > 0:
				seen++
			case len(differences(t, mutant, ours, args, 1)) == 0:
				same++
			default:
				t.Errorf("instruction %d: %+v for %+v is not seen", i, f, ours[i])
			}
		}
	}
	if seen < 9*broken/10 {
		t.Errorf("of %d broken filters %d are seen", broken, seen)
	}
	t.Logf("%d broken filters: %d seen, %d answer the same", broken, seen, same)
}

// mistakes are other instructions that a compiler might have written.
func mistakes(f unix.SockFilter) (out []unix.SockFilter) {
	change := func(c func(*unix.SockFilter)) {
		m := f
		if c(&m); m != f {
			out = append(out, m)
		}
	}
	switch f.Code & 7 {
	case unix.BPF_JMP:
		if f.Code == unix.BPF_JMP|unix.BPF_JA {
			return nil
		}
		change(func(m *unix.SockFilter) { m.Jt, m.Jf = m.Jf, m.Jt })
		change(func(m *unix.SockFilter) { m.K++ })
		change(func(m *unix.SockFilter) { m.K-- })
	case unix.BPF_RET:
		change(func(m *unix.SockFilter) { m.K = uint32(unix.SECCOMP_RET_TRAP) })
	case unix.BPF_ALU:
		change(func(m *unix.SockFilter) { m.K = ^uint32(0) })
	}
	return out
}
