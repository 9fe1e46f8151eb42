#include "textflag.h"

// func vfork(nr, a, b uintptr) (r uintptr, errno syscall.Errno)
//
// The child that shares this stack returns first and overwrites the return address, so that is kept in a register,
// which the kernel preserves.
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-40
	MOVQ nr+0(FP), AX
	MOVQ a+8(FP), DI
	MOVQ b+16(FP), SI
	MOVQ $0, DX
	MOVQ $0, R10
	MOVQ $0, R8
	POPQ R12
	SYSCALL
	PUSHQ R12
	CMPQ AX, $0xfffffffffffff001
	JLS  good
	MOVQ $0, r+24(FP)
	NEGQ AX
	MOVQ AX, errno+32(FP)
	RET
good:
	MOVQ AX, r+24(FP)
	MOVQ $0, errno+32(FP)
	RET
