package main

import (
	"fmt"
	"io"
	"text/tabwriter"
	"time"
)

// report prints a line for each phase and runtime. Ratios are the first runtime's median by this one's: below 1 the first
// is faster.
func report(out io.Writer, o options, peers []*peer) {
	fmt.Fprintf(out, "%d of each, %s apart; wall and CPU in ms, memory in KiB; ratio: %s / other, of medians\n", o.n, o.gap, peers[0].name)
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "phase\truntime\twall min\tp50\tratio\tCPU min\tp50\tratio\tpeak RSS\tratio\t")
	for _, phase := range append(phases[:], ownInit, strays) {
		var wall, cpu time.Duration
		var rss int64
		for i, p := range peers {
			s := p.phases[phase]
			if s == nil {
				continue
			}
			lowWall, midWall := median(s.wall)
			lowCPU, midCPU := median(s.cpu)
			peak := int64(0)
			for _, v := range s.rss {
				peak = max(peak, v)
			}
			if i == 0 {
				wall, cpu, rss = midWall, midCPU, peak
			}
			if lowCPU == 0 && peak == 0 { // nothing was left behind
				continue
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%.2f\t%.2f\t%s\t%s\t%s\t\n", phase, p.name, ms(lowWall), ms(midWall), ratio(int64(wall), int64(midWall)),
				milli(lowCPU), milli(midCPU), ratio(int64(cpu), int64(midCPU)), number(peak), ratio(rss, peak))
		}
	}
	w.Flush()
}

func milli(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

// ms is empty where no wall time was taken.
func ms(d time.Duration) string {
	if d == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", milli(d))
}

func number(n int64) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

func ratio(a, b int64) string {
	if a == 0 || b == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f", float64(a)/float64(b))
}
