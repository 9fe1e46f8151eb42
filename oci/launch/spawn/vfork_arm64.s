#include "textflag.h"

// func vfork(nr, a, b uintptr) (r uintptr, errno syscall.Errno)
//
// The return address is in R30, which the kernel preserves.
TEXT ·vfork(SB), NOSPLIT|NOFRAME, $0-40
	MOVD nr+0(FP), R8
	MOVD a+8(FP), R0
	MOVD b+16(FP), R1
	MOVD $0, R2
	MOVD $0, R3
	MOVD $0, R4
	SVC
	CMN  $4095, R0
	BCC  good
	MOVD ZR, r+24(FP)
	NEG  R0, R0
	MOVD R0, errno+32(FP)
	RET
good:
	MOVD R0, r+24(FP)
	MOVD ZR, errno+32(FP)
	RET
