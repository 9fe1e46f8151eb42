package seccomp

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"math/rand/v2"
	"testing"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// randomProfile makes a sound profile. A simple one has one rule a call (and
// one for all calls that meet in socketcall or ipc): libseccomp answers wrongly
// where rules of one call test an argument for > and >= of one value, and with
// different actions it goes by the order in its tree, not in the profile.
func randomProfile(r *rand.Rand, simple bool) *specs.LinuxSeccomp {
	names := []string{"read", "write", "open", "socket", "connect", "accept", "accept4", "send", "recv", "sendmsg", "recvmmsg",
		"socketcall", "ipc", "semop", "semtimedop", "shmat", "msgget", "clone", "clone3", "personality", "mmap2", "fstatat64",
		"arch_prctl", "set_tls", "cacheflush", "execve", "ioctl", "openat2", "futex_waitv", "waitpid", "preadv2", "_llseek"}
	ops := []specs.LinuxSeccompOperator{specs.OpNotEqual, specs.OpLessThan, specs.OpLessEqual, specs.OpEqualTo,
		specs.OpGreaterEqual, specs.OpGreaterThan, specs.OpMaskedEqual}
	values := []uint64{0, 1, 2, 40, 0x7fffffff, 0x80000000, 0xffffffff, 1 << 32, 1<<32 + 5, 1 << 63, ^uint64(0), 0x7E020000}
	actions := []specs.LinuxSeccompAction{specs.ActAllow, specs.ActErrno, specs.ActTrap, specs.ActLog, specs.ActKillProcess, specs.ActTrace}
	p := &specs.LinuxSeccomp{DefaultAction: actions[r.IntN(len(actions))]}
	for _, a := range allArchs {
		if r.IntN(2) == 0 {
			p.Architectures = append(p.Architectures, a)
		}
	}
	used := map[string]bool{}
	for range 1 + r.IntN(30) {
		name := names[r.IntN(len(names))]
		by, _, ok := muxed(name)
		if !ok {
			by = name
		}
		if simple && used[by] {
			continue
		}
		used[by] = true
		s := specs.LinuxSyscall{Names: []string{name}, Action: actions[r.IntN(len(actions))]}
		var taken [6]bool
		for range r.IntN(4) {
			i := r.IntN(6)
			if taken[i] {
				continue
			}
			taken[i] = true
			a := specs.LinuxSeccompArg{Index: uint(i), Op: ops[r.IntN(len(ops))], Value: values[r.IntN(len(values))]}
			if a.Op == specs.OpMaskedEqual {
				a.ValueTwo = values[r.IntN(len(values))]
			}
			s.Args = append(s.Args, a)
		}
		p.Syscalls = append(p.Syscalls, s)
	}
	return p
}

func TestRandomProfilesAgainstLibseccomp(t *testing.T) {
	t.Parallel()
	o := newOracle(t)
	r := rand.New(rand.NewPCG(7, 11))
	rounds, compared := 120, 0
	if testing.Short() {
		rounds = 10
	}
	for range rounds {
		if o.compare(t, o.agreed(t, randomProfile(r, true))) {
			compared++
		}
		if t.Failed() {
			return
		}
	}
	t.Logf("%d of %d profiles compared", compared, rounds)
}

// refer answers for a call straight from the rules, as the package comment
// states them.
func refer(p *profile, d data) ret {
	var own []specs.Arch
	for _, name := range p.archs {
		if a, _ := archOf(name); a != nil && a.audit == d.arch && (d.arch != unix.AUDIT_ARCH_X86_64 || (name == specs.ArchX32) == (d.nr >= x32Bit && d.nr != 1<<32-1)) {
			own = append(own, name)
		}
	}
	if len(own) == 0 {
		if p.stub && d.arch == unix.AUDIT_ARCH_X86_64 {
			return noCall
		}
		return badArch
	}
	a, _ := archOf(own[0])
	var newest uint32
	answer, named, found := p.def, false, false
	for pass := range 2 { // rules without arguments first
		for _, r := range p.rules {
			for _, name := range r.names {
				sets := map[uint32][][]cond{}
				if nr, ok := a.lookup(name); ok {
					sets[nr] = r.sets
				}
				if by, n, ok := muxed(name); ok && a.mux {
					nr, _ := a.lookup(by)
					sets[nr] = demux(r.sets, n)
				}
				for nr, s := range sets {
					newest, named = max(newest, nr), true
					if nr == d.nr && r.ret != p.def && !found && (len(s) == 0) == (pass == 0) && holds(s, d, a.wide) {
						answer, found = r.ret, true
					}
				}
			}
		}
	}
	if d.nr > newest && p.stub && (named || d.nr == 1<<32-1 && a.wide && d.arch == unix.AUDIT_ARCH_X86_64) {
		return noCall
	}
	return answer
}

func holds(sets [][]cond, d data, wide bool) bool {
	if len(sets) == 0 {
		return true
	}
	for _, set := range sets {
		all := true
		for _, c := range set {
			have, want := d.args[c.index]&c.mask, c.value
			if !wide {
				have, want = have&0xffffffff, want&0xffffffff
			}
			all = all && map[specs.LinuxSeccompOperator]bool{
				specs.OpNotEqual: have != want, specs.OpLessThan: have < want, specs.OpLessEqual: have <= want,
				specs.OpEqualTo: have == want, specs.OpGreaterEqual: have >= want, specs.OpGreaterThan: have > want,
				specs.OpMaskedEqual: have == want}[c.op]
		}
		if all {
			return true
		}
	}
	return false
}

func TestRandomProfilesAgainstReference(t *testing.T) {
	t.Parallel()
	r := rand.New(rand.NewPCG(3, 5))
	for range 40 {
		spec := randomProfile(r, false)
		p, err := parse(spec, specs.ArchX86_64)
		if err != nil {
			t.Fatal(err)
		}
		prog := p.assemble()
		args := arguments(p)
		for range 4000 {
			d := data{arch: unix.AUDIT_ARCH_X86_64, args: args[r.IntN(len(args))]}
			if a, _ := archOf(allArchs[r.IntN(len(allArchs))]); r.IntN(8) > 0 {
				rule := p.rules[r.IntN(len(p.rules))]
				d.arch = a.audit
				if d.nr, _ = a.lookup(rule.names[0]); a.mux && r.IntN(2) == 0 {
					by, _, _ := muxed(rule.names[0])
					d.nr, _ = a.lookup(by)
				}
			} else {
				d.nr = []uint32{1<<32 - 1, x32Bit, 471, 10000, x32Bit + 10000, r.Uint32()}[r.IntN(6)]
			}
			if got, want := eval(t, prog, d), refer(p, d); got != want {
				js, _ := json.Marshal(spec)
				t.Fatalf("arch %#x call %#x args %x: %#x, want %#x; %.2000s", d.arch, d.nr, d.args, got, want, js)
			}
		}
	}
}

// FuzzCompile takes any JSON for a profile. What compiles must be a program the
// kernel accepts: forward jumps, in bounds, an answer at every end; and it must
// answer what the rules say, for the calls they name, with arguments at and
// around the values they name.
func FuzzCompile(f *testing.F) {
	r := rand.New(rand.NewPCG(1, 1))
	for range 5 { // small ones: the fuzzer is slow with a whole default profile
		p := randomProfile(r, false)
		p.Syscalls = p.Syscalls[:min(4, len(p.Syscalls))]
		b, err := json.Marshal(p)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var spec specs.LinuxSeccomp
		if json.Unmarshal(b, &spec) != nil {
			return
		}
		prog, err := compileFor(&spec, specs.ArchX86_64)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		wellFormed(t, prog)
		p, err := parse(&spec, specs.ArchX86_64)
		if err != nil {
			t.Fatal(err)
		}
		if len(p.rules) > 8 {
			return // slow
		}
		for _, d := range questions(p) {
			if got, want := eval(t, prog.Filter, d), refer(p, d); got != want {
				t.Fatalf("arch %#x call %#x args %x: %#x, want %#x; %s", d.arch, d.nr, d.args, got, want, b)
			}
		}
	})
}

func wellFormed(t *testing.T, prog Program) {
	n := len(prog.Filter)
	for i, in := range prog.Filter {
		far := i + 1 + int(max(in.Jt, in.Jf))
		if in.Code == unix.BPF_JMP|unix.BPF_JA {
			far = i + 1 + int(in.K)
		}
		if in.Code&7 == unix.BPF_JMP && far >= n {
			t.Fatalf("instruction %d of %d jumps to %d", i, n, far)
		}
	}
	if prog.Filter[n-1].Code&7 != unix.BPF_RET {
		t.Fatal("runs off the end")
	}
	back, err := Decode(Encode(prog))
	if err != nil || len(back.Filter) != n {
		t.Fatal(err)
	}
}

// questions are the calls a profile names, on each architecture, and some it does not.
func questions(p *profile) []data {
	args := arguments(p)
	args = append(args[:2:2], args[len(args)-20:]...)
	var all []data
	for _, name := range allArchs {
		a, _ := archOf(name)
		nrs := []uint32{0, 1, 59, 439, 10000, x32Bit, x32Bit + 1, 1<<32 - 1}
		for _, r := range p.rules {
			for _, call := range r.names[:min(4, len(r.names))] {
				if nr, ok := a.lookup(call); ok {
					nrs = append(nrs, nr, nr+1)
				}
				if by, _, ok := muxed(call); ok && a.mux {
					nr, _ := a.lookup(by)
					nrs = append(nrs, nr)
				}
			}
		}
		for _, nr := range nrs {
			for _, v := range args {
				all = append(all, data{nr: nr, arch: a.audit, args: v})
			}
		}
	}
	return append(all, data{arch: unix.AUDIT_ARCH_S390X})
}

// FuzzDecode: a program from disk is refused, or is what Encode would write.
func FuzzDecode(f *testing.F) {
	p, err := compileFor(&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActTrap}}}, specs.ArchX86_64)
	if err != nil {
		f.Fatal(err)
	}
	b := Encode(p)
	f.Add(b)
	f.Add(b[:len(b)-3])
	f.Add([]byte(magic))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := Decode(b)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatal(err)
			}
			return
		}
		if !bytes.Equal(Encode(p), b) {
			t.Fatalf("%x reads as %+v", b, p)
		}
	})
}
