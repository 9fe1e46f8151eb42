package oci_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci"
	"github.com/berth-runtime/berth/test/bundle"
)

// A program is opened once, anew when it is another file, and can't be written by way of what is opened.
func TestProgram(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: makes a mount")
	}
	name := filepath.Join(t.TempDir(), "program")
	put := func(text string) {
		if err := bundle.Executable(name+".new", text); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	p := oci.NewProgram(name)
	if f := p.Open(); f != nil {
		t.Fatal("a program that is not there")
	}
	put("#!/bin/sh\nexit 3\n")
	f := p.Open()
	if f == nil {
		t.Fatal("no mount")
	}
	if p.Open() != f {
		t.Error("made twice")
	}
	link := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	if got, err := os.Readlink(link); got != "/" { // what berth-oci goes by
		t.Errorf("link to %q, %v", got, err)
	}
	if err := os.WriteFile(link, nil, 0); !errors.Is(err, unix.EROFS) {
		t.Errorf("written: %v", err)
	}
	cmd := exec.Command("/proc/self/fd/3")
	cmd.ExtraFiles = []*os.File{f}
	if cmd.Run(); cmd.ProcessState.ExitCode() != 3 {
		t.Errorf("executed: %v", cmd.ProcessState)
	}
	put("#!/bin/sh\nexit 4\n")
	if next := p.Open(); next == nil || next == f {
		t.Errorf("another file: %v", next)
	}
	if none := (*oci.Program)(nil).Open(); none != nil {
		t.Error("a program of none")
	}
}
