package state_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/oci/launch/state"
)

func TestRecord(t *testing.T) {
	t.Parallel()
	root := t.TempDir() + "/" + strings.Repeat("deep/", 30) // longer than the name of a socket may be
	d, err := state.Create(root, "id")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	if _, err := state.Create(root, "id"); !errors.Is(err, fs.ErrExist) {
		t.Errorf("second create: %v", err)
	}
	if s, err := d.Read(); err != nil || s.ID != "id" || s.Pid != 0 {
		t.Errorf("record of a create that was cut off: %+v %v", s, err)
	}
	if err := d.Write(&state.State{ID: "id", Pid: 7, Boot: "another"}); err != nil {
		t.Fatal(err)
	}
	s, err := d.Read()
	if err != nil || s.Pid != 7 || s.Alive() {
		t.Errorf("%+v %v: a pid of another boot lives", s, err)
	}
	if _, err := state.Open(root, "other"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("open of nothing: %v", err)
	}
	if err := os.WriteFile(d.Path+"/state.json", []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := d.Read(); err == nil {
		t.Error("a torn record was read")
	}
}

// Status follows the process and the socket, and End ends it; both more than once.
func TestStatus(t *testing.T) {
	t.Parallel()
	d, err := state.Create(t.TempDir(), "id")
	if err != nil {
		t.Fatal(err)
	}
	defer d.Close()
	cmd := exec.Command("sleep", "60")
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	_, start, err := state.Stat(cmd.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	s := &state.State{ID: "id", Pid: cmd.Process.Pid, StartTime: start, Boot: state.BootID()}
	l, err := d.Listen()
	if err != nil {
		t.Fatal(err)
	}
	want := func(want state.Status) {
		t.Helper()
		if got := d.Status(s); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
	want(state.Created)
	want(state.Created)
	l.Close()
	want(state.Running)
	if err := d.Start(time.Time{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("start without a listener: %v", err)
	}
	other := *s
	other.StartTime++
	if other.Alive() {
		t.Error("another process of the same pid passes for this one")
	}
	for range 2 {
		if err := s.End(context.Background()); err != nil {
			t.Error(err)
		}
	}
	cmd.Wait()
	want(state.Stopped)
}
