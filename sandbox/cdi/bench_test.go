package cdi_test

import (
	"testing"

	"github.com/berth-runtime/berth/sandbox/cdi"
)

func BenchmarkApply(b *testing.B) {
	dir := b.TempDir()
	file(b, dir, "vendor.json", vendor)
	for b.Loop() {
		if err := cdi.Apply(base(), []string{dir}, []string{"vendor.com/thing=one"}); err != nil {
			b.Fatal(err)
		}
	}
}
