#include "textflag.h"

// onSignal is the handler: write(signalFD, &signo, 1). It runs on the thread's signal stack, in whatever code the signal has
// met, and uses nothing of the Go runtime. The registers are the kernel's to restore; it returns to the vdso's sigreturn.
TEXT ·onSignal(SB),NOSPLIT|NOFRAME,$0
	MOVD.W R0, -16(RSP)  // the signal's number, little end first
	MOVD   $5, R0        // signalFD
	MOVD   RSP, R1
	MOVD   $1, R2
	MOVD   $64, R8       // SYS_write
	SVC
	ADD    $16, RSP
	RET

// func handlers() (handler, restorer uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	MOVD $·onSignal(SB), R0
	MOVD R0, handler+0(FP)
	MOVD ZR, restorer+8(FP)
	RET
