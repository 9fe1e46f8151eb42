package monitor_test

import (
	"errors"
	"io/fs"
	"os"
	"strings"
	"syscall"
	"testing"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

func TestRunWithRuntime(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "a", 0, "say", `one\ntwo\r\nrest`, `bad\n`, "3")
	got := run(t, m, s)
	x := waitExit(t, m, "a")
	if x.Pid != got.Pid || x.Code != 3 || x.Signal != 0 || x.FinishedAt == 0 {
		t.Errorf("exit %+v", x)
	}
	if f := exitFile(t, s.ExitFile); f != x {
		t.Errorf("exit file %+v, event %+v", f, x)
	}
	out, err := readLog(t, s.Log)
	if out != "one\ntwo\r\nrest" || err != "bad\n" {
		t.Errorf("log %q %q", out, err)
	}
	if st, err := os.Stat(s.Log); err != nil || st.Mode() != 0o640 {
		t.Errorf("log %v %v", st.Mode(), err)
	}
	if l, err := m.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("list %+v %v", l, err)
	}
}

func TestRunPlain(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := plain(dir, "p", "sleep")
	got := run(t, m, s)
	if l, err := m.List(t.Context()); err != nil || len(l) != 1 || l[0] != (wire.Process{ID: "p", Pid: got.Pid}) {
		t.Errorf("list %+v %v", l, err)
	}
	if _, _, err := m.Run(t.Context(), s, nil); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second with the same id: %v", err)
	}
	if err := m.Signal(t.Context(), "p", syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if x := waitExit(t, m, "p"); x.Code != 143 || x.Signal != 15 {
		t.Errorf("exit %+v", x)
	}
	if err := m.Signal(t.Context(), "p", 0); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH) {
		t.Errorf("signal to the dead: %v", err)
	}
}

func TestRuntimeFails(t *testing.T) {
	t.Parallel()
	m, dir := start(t)
	s := spawn(dir, "b", 0)
	s.Argv = []string{bin.oci, "broken", "mount /x: no such file"}
	got, _, err := m.Run(t.Context(), s, nil)
	if err == nil || !strings.Contains(err.Error(), "exit status 7: mount /x: no such file") || got.Stderr != "mount /x: no such file\n" {
		t.Errorf("%+v %v", got, err)
	}
	s.Argv = []string{"/nowhere/runc"}
	if _, _, err = m.Run(t.Context(), s, nil); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing runtime: %v", err)
	}
	s.Argv = []string{bin.oci, "liar", s.PidFile}
	if _, _, err = m.Run(t.Context(), s, nil); err == nil || !strings.Contains(err.Error(), "adopt pid 1") {
		t.Errorf("not a child: %v", err)
	}
	s.Argv, s.Timeout = []string{bin.oci, "hang"}, 200
	if got, _, err = m.Run(t.Context(), s, nil); !errors.Is(err, syscall.ETIMEDOUT) || got.Stderr != "hanging\n" {
		t.Errorf("hanging runtime: %+v %v", got, err)
	}
	if l, err := m.List(t.Context()); err != nil || len(l) != 0 {
		t.Errorf("list %+v %v", l, err)
	}
}
