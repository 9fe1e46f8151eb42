package cgroup_test

import (
	"testing"

	"github.com/berth-runtime/berth/oci/cgroup"
)

func BenchmarkDetail(b *testing.B) {
	g := newGroup(b)
	defer g.Close()
	for b.Loop() {
		if _, err := cgroup.DetailOf(g); err != nil {
			b.Fatal(err)
		}
	}
}
