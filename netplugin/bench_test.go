package netplugin_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/berth-runtime/berth/netplugin"
)

// BenchmarkNetworks attaches and detaches one pod after the other, with a pause between them: back to back, the kernel
// hides how long plugins wait for it. Namespaces are made and dropped outside of the measured time.
func BenchmarkNetworks(b *testing.B) {
	for _, n := range []struct {
		name string
		open func(b *testing.B) *netplugin.Manager
	}{
		{"builtin", func(b *testing.B) *netplugin.Manager {
			return newBuiltin(b, b.TempDir(), netplugin.BuiltinConf{})
		}},
		{"reference", func(b *testing.B) *netplugin.Manager {
			m, _, _ := newReference(b)
			return m
		}},
	} {
		for _, ports := range []int{0, 1} {
			b.Run(fmt.Sprintf("%s/ports=%d", n.name, ports), func(b *testing.B) {
				benchmark(b, n.open(b), ports)
			})
		}
	}
}

func benchmark(b *testing.B, m *netplugin.Manager, ports int) {
	var add, del time.Duration
	for i := range b.N {
		ns := newNS(b)
		pod := netplugin.Pod{ID: fmt.Sprintf("pod%d", i), NetNS: ns}
		for p := range ports {
			pod.Ports = append(pod.Ports, netplugin.Port{HostPort: uint16(20000 + p), ContainerPort: 80, Protocol: "tcp"})
		}
		time.Sleep(50 * time.Millisecond)
		start := time.Now()
		if _, err := m.Attach(b.Context(), pod); err != nil {
			b.Fatal(err)
		}
		add += time.Since(start)
		time.Sleep(20 * time.Millisecond)
		start = time.Now()
		if err := m.Detach(b.Context(), pod.ID, ns); err != nil {
			b.Fatal(err)
		}
		del += time.Since(start)
		dropNS(ns)
	}
	b.ReportMetric(float64(add.Microseconds())/1000/float64(b.N), "ms/ADD")
	b.ReportMetric(float64(del.Microseconds())/1000/float64(b.N), "ms/DEL")
	b.ReportMetric(0, "ns/op")
	if err := m.Collect(b.Context(), nil); err != nil {
		b.Error(err)
	}
}
