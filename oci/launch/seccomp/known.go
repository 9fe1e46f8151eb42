package seccomp

import (
	specs "github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Actions are those a rule may have.
func Actions() []string {
	return []string{string(specs.ActAllow), string(specs.ActErrno), string(specs.ActKill), string(specs.ActKillProcess),
		string(specs.ActKillThread), string(specs.ActLog), string(specs.ActNotify), string(specs.ActTrace), string(specs.ActTrap)}
}

// Operators are those a condition on an argument may have.
func Operators() []string {
	return []string{string(specs.OpEqualTo), string(specs.OpGreaterEqual), string(specs.OpGreaterThan), string(specs.OpLessEqual),
		string(specs.OpLessThan), string(specs.OpMaskedEqual), string(specs.OpNotEqual)}
}

// Architectures are those a profile may name.
func Architectures() []string {
	var out []string
	for _, a := range [...]specs.Arch{specs.ArchAARCH64, specs.ArchARM, specs.ArchLOONGARCH64, specs.ArchM68K, specs.ArchMIPS, specs.ArchMIPS64,
		specs.ArchMIPS64N32, specs.ArchMIPSEL, specs.ArchMIPSEL64, specs.ArchMIPSEL64N32, specs.ArchPARISC, specs.ArchPARISC64,
		specs.ArchPPC, specs.ArchPPC64, specs.ArchPPC64LE, specs.ArchRISCV64, specs.ArchS390, specs.ArchS390X, specs.ArchSH,
		specs.ArchSHEB, specs.ArchX32, specs.ArchX86, specs.ArchX86_64} {
		out = append(out, string(a))
	}
	return out
}

// Flags are those a profile may have.
func Flags() []string {
	return []string{string(specs.LinuxSeccompFlagLog), string(specs.LinuxSeccompFlagSpecAllow), "SECCOMP_FILTER_FLAG_TSYNC",
		string(specs.LinuxSeccompFlagWaitKillableRecv)}
}

// SupportedFlags are those of Flags that this kernel knows.
func SupportedFlags() []string {
	bits := map[string]uint{
		string(specs.LinuxSeccompFlagLog): unix.SECCOMP_FILTER_FLAG_LOG, string(specs.LinuxSeccompFlagSpecAllow): unix.SECCOMP_FILTER_FLAG_SPEC_ALLOW,
		"SECCOMP_FILTER_FLAG_TSYNC": unix.SECCOMP_FILTER_FLAG_TSYNC,
		// refused without a listener to wait for
		string(specs.LinuxSeccompFlagWaitKillableRecv): unix.SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV | unix.SECCOMP_FILTER_FLAG_NEW_LISTENER,
	}
	var out []string
	for _, name := range Flags() {
		if supported(bits[name]) {
			out = append(out, name)
		}
	}
	return out
}
