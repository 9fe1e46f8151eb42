package launch

import (
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// The thread that clones has the initial CPUs while it does, and all of them again afterwards.
func TestInitially(t *testing.T) {
	t.Parallel()
	var before, within, after unix.CPUSet
	if err := unix.SchedGetaffinity(0, &before); err != nil || before.Count() < 2 || !before.IsSet(1) {
		t.Skip("needs CPU 1 and another")
	}
	if err := initially(&specs.CPUAffinity{Initial: "1"}, func() error { return unix.SchedGetaffinity(0, &within) }); err != nil {
		t.Fatal(err)
	}
	unix.SchedGetaffinity(0, &after)
	if within.Count() != 1 || !within.IsSet(1) || after != before {
		t.Errorf("within %v, after %v, before %v", within, after, before)
	}
	if err := initially(&specs.CPUAffinity{Initial: "4000"}, func() error { return nil }); err == nil {
		t.Error("a CPU that is not there")
	}
}
