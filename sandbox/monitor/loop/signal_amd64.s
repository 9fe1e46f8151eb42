#include "textflag.h"

// onSignal is the handler: write(signalFD, &signo, 1). It runs on the thread's signal stack, in whatever code the signal has
// met, and uses nothing of the Go runtime. The registers are the kernel's to restore.
TEXT ·onSignal(SB),NOSPLIT|NOFRAME,$0
	PUSHQ DI             // the signal's number, little end first
	MOVL  $5, DI         // signalFD
	MOVQ  SP, SI
	MOVL  $1, DX
	MOVL  $1, AX         // SYS_write
	SYSCALL
	POPQ  DI
	RET

// sigReturn is where the handler returns to (SA_RESTORER).
TEXT ·sigReturn(SB),NOSPLIT|NOFRAME,$0
	MOVL $15, AX         // SYS_rt_sigreturn
	SYSCALL
	INT  $3

// func handlers() (handler, restorer uintptr)
TEXT ·handlers(SB),NOSPLIT,$0-16
	MOVQ $·onSignal(SB), AX
	MOVQ AX, handler+0(FP)
	MOVQ $·sigReturn(SB), AX
	MOVQ AX, restorer+8(FP)
	RET
