package bundle

import (
	"os"
	"os/exec"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// Result is what a command left behind.
type Result struct {
	Code     int // -1 for one that was killed
	Out, Err string
	Late     bool // it had to be killed
}

// Run runs a command that has to end within a time. Output goes to files: a pipe would stay open in the container's init.
// A command that says itself where its output goes has none here.
func Run(t *testing.T, cmd *exec.Cmd, within time.Duration) Result {
	t.Helper()
	out, errs := temporary(t), temporary(t)
	defer out.Close()
	defer errs.Close()
	if cmd.Stdout == nil {
		cmd.Stdout = out
	}
	cmd.Stderr = errs
	if err := cmd.Start(); err != nil {
		t.Error(err)
		return Result{Code: -1, Err: err.Error()}
	}
	var late atomic.Bool
	timer := time.AfterFunc(within, func() { late.Store(true); cmd.Process.Kill() })
	cmd.Wait()
	timer.Stop()
	if late.Load() {
		t.Errorf("%v hangs", cmd.Args)
	}
	return Result{cmd.ProcessState.ExitCode(), text(out), text(errs), late.Load()}
}

// temporary is a file that nobody has to remove.
func temporary(t *testing.T) *os.File {
	t.Helper()
	f, err := os.CreateTemp("", "berth-out-")
	if err != nil {
		t.Fatal(err)
	}
	os.Remove(f.Name())
	return f
}

// text is all of a file, wherever the command's writes have moved the offset it shares.
func text(f *os.File) string {
	st, err := f.Stat()
	if err != nil {
		return ""
	}
	b := make([]byte, st.Size())
	n, _ := f.ReadAt(b, 0)
	return string(b[:n])
}

// Executable writes a program. No fork may come in between: the child would have the file open for writing until its exec, and
// whoever executes it meanwhile gets ETXTBSY (execve(2)).
func Executable(name, text string) error {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	return os.WriteFile(name, []byte(text), 0o755)
}
