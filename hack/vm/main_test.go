package main

import (
	"errors"
	"fmt"
	"testing"

	"github.com/berth-runtime/berth/hack/vm/machine"
)

// hack/vm.sh emulates where KVM can't be used, which it knows by this code.
func TestExitCodes(t *testing.T) {
	kvm := errors.Join(fmt.Errorf("boot: %w", machine.ErrKVM), nil)
	if code := failed(kvm); code != 3 {
		t.Errorf("without KVM: %d, want 3", code)
	}
	if code := failed(errors.New("other")); code != 125 {
		t.Errorf("otherwise: %d, want 125", code)
	}
}
