#include "textflag.h"

// The g that code here runs on: only stack.lo, stack.hi, stackguard0 and stackguard1, the first four words, are set.
GLOBL fake<>(SB), NOPTR, $1024

// Thread-local storage: the runtime's slot for g is the word below FS (runtime/go_tls.h, linux/amd64).
GLOBL tls<>(SB), NOPTR, $64

// What an init said instead of executing its program; the first word is the length.
GLOBL said<>(SB), NOPTR, $4104

// _berth_entry is where the kernel begins: SP points to argc, argv, envp and the auxiliary vector (x86-64 psABI 3.4.1).
TEXT _berth_entry(SB), NOSPLIT|NOFRAME, $0
	MOVQ SP, BX
	LEAQ fake<>(SB), AX
	LEAQ -(256*1024)(SP), CX
	MOVQ CX, 0(AX)
	MOVQ SP, 8(AX)
	MOVQ CX, 16(AX)
	MOVQ CX, 24(AX)
	LEAQ tls<>(SB), SI
	MOVQ AX, 0(SI)
	ADDQ $8, SI
	MOVQ $0x1002, DI // ARCH_SET_FS
	MOVQ $158, AX    // SYS_arch_prctl
	SYSCALL
	ANDQ $~15, SP
	SUBQ $32, SP
	MOVQ BX, 0(SP)
	MOVQ BX, 24(SP)
	CALL ·early(SB)
	MOVQ 8(SP), CX // words of the vectors
	MOVQ 24(SP), BX

	// the runtime gets a copy of the vectors with two more variables
	ADDQ $8, CX
	SHLQ $3, CX
	MOVQ BX, DX
	SUBQ CX, DX
	ANDQ $~15, DX
	MOVQ DX, SP
	SUBQ $32, SP
	MOVQ BX, 0(SP)
	MOVQ DX, 8(SP)
	MOVQ DX, 24(SP)
	CALL ·vectors(SB)
	MOVQ 24(SP), SP
	JMP _rt0_amd64_linux(SB)

// func syscall6(nr, a, b, c, d, e, f uintptr) uintptr
TEXT ·syscall6(SB), NOSPLIT, $0-64
	MOVQ nr+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ c+24(FP), DX
	MOVQ d+32(FP), R10
	MOVQ e+40(FP), R8
	MOVQ f+48(FP), R9
	SYSCALL
	MOVQ AX, ret+56(FP)
	RET

// func answer() *reply
TEXT ·answer(SB), NOSPLIT, $0-8
	LEAQ said<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

DATA maxprocs<>+0(SB)/8, $"GOMAXPRO"
DATA maxprocs<>+8(SB)/4, $"CS=1"
GLOBL maxprocs<>(SB), RODATA|NOPTR, $16

DATA gogc<>+0(SB)/8, $"GOGC=off"
GLOBL gogc<>(SB), RODATA|NOPTR, $16

// func variables() (maxprocs, gogc uintptr)
TEXT ·variables(SB), NOSPLIT, $0-16
	LEAQ maxprocs<>(SB), AX
	MOVQ AX, maxprocs+0(FP)
	LEAQ gogc<>(SB), AX
	MOVQ AX, gogc+8(FP)
	RET

// A picture (picture.go) and a file (blob); no more pages of them are there than are used.
GLOBL picture<>(SB), NOPTR, $165888
GLOBL blob<>(SB), NOPTR, $524296

// func memory() *picture
TEXT ·memory(SB), NOSPLIT, $0-8
	LEAQ picture<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET

// func large() *blob
TEXT ·large(SB), NOSPLIT, $0-8
	LEAQ blob<>(SB), AX
	MOVQ AX, ret+0(FP)
	RET
