package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// reads are the calls that kubelet repeats for as long as a node lives: lists every second, stats every ten.
var reads = []struct {
	name string
	call func(context.Context, rt.RuntimeServiceClient) error
}{
	{"ListPodSandbox", func(ctx context.Context, c rt.RuntimeServiceClient) error {
		_, err := c.ListPodSandbox(ctx, &rt.ListPodSandboxRequest{})
		return err
	}},
	{"ListContainers", func(ctx context.Context, c rt.RuntimeServiceClient) error {
		_, err := c.ListContainers(ctx, &rt.ListContainersRequest{})
		return err
	}},
	{"ListContainerStats", func(ctx context.Context, c rt.RuntimeServiceClient) error {
		_, err := c.ListContainerStats(ctx, &rt.ListContainerStatsRequest{})
		return err
	}},
	{"ListPodSandboxStats", func(ctx context.Context, c rt.RuntimeServiceClient) error {
		_, err := c.ListPodSandboxStats(ctx, &rt.ListPodSandboxStatsRequest{})
		return err
	}},
	{"ListPodSandboxMetrics", func(ctx context.Context, c rt.RuntimeServiceClient) error {
		_, err := c.ListPodSandboxMetrics(ctx, &rt.ListPodSandboxMetricsRequest{})
		return err
	}},
}

// cost is what one call took.
type cost struct {
	times []time.Duration
	cpu   time.Duration // of the runtime's processes, per call
}

// lists brings up o.lists pods on each socket in turn and prints what reading them costs: time, and CPU of the runtime's daemon
// and whatever it has beside it (shims, monitors).
func lists(ctx context.Context, peers []*peer, o options) error {
	costs := map[*peer]map[string]cost{}
	for _, p := range peers {
		down, err := p.fill(ctx, o)
		if err == nil {
			costs[p], err = p.read(ctx, o)
		}
		down()
		if err != nil {
			return fmt.Errorf("%s: %w", p.name, err)
		}
	}
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "ms, %d pods, %d calls\t", o.lists, o.n)
	for _, p := range peers {
		fmt.Fprintf(w, "%s min\tp50\tratio\tCPU\tratio\t", p.name)
	}
	fmt.Fprintln(w)
	for _, r := range reads {
		fmt.Fprintf(w, "%s\t", r.name)
		base := costs[peers[0]][r.name]
		for _, p := range peers {
			c := costs[p][r.name]
			fmt.Fprintf(w, "%.2f\t%.2f\t%.1f\t%.2f\t%.1f\t", ms(c.times[0]), ms(c.times[len(c.times)/2]),
				float64(c.times[len(c.times)/2])/float64(base.times[len(base.times)/2]), ms(c.cpu), float64(c.cpu)/float64(max(base.cpu, 1)))
		}
		fmt.Fprintln(w)
	}
	return w.Flush()
}

// fill brings the pods up; down removes them, also after an error.
func (p *peer) fill(ctx context.Context, o options) (down func(), err error) {
	var ids []string
	down = func() {
		for _, id := range ids {
			p.rt.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: id})
			p.rt.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: id})
		}
	}
	for i := range o.lists {
		pod, ctr := o.configs(1_000_000 + i)
		r, err := p.rt.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: pod})
		if err != nil {
			return down, err
		}
		ids = append(ids, r.PodSandboxId)
		c, err := p.rt.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: r.PodSandboxId, Config: ctr, SandboxConfig: pod})
		if err != nil {
			return down, err
		}
		if _, err := p.rt.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: c.ContainerId}); err != nil {
			return down, err
		}
	}
	return down, nil
}

func (p *peer) read(ctx context.Context, o options) (map[string]cost, error) {
	out := map[string]cost{}
	for _, r := range reads {
		if err := r.call(ctx, p.rt); err != nil { // opens what is kept open
			return nil, fmt.Errorf("%s: %w", r.name, err)
		}
		var c cost
		before := p.cpu()
		for range o.n {
			t := time.Now()
			if err := r.call(ctx, p.rt); err != nil {
				return nil, fmt.Errorf("%s: %w", r.name, err)
			}
			c.times = append(c.times, time.Since(t))
		}
		c.cpu = (p.cpu() - before) / time.Duration(o.n)
		slices.Sort(c.times)
		out[r.name] = c
	}
	return out, nil
}

// cpu is the CPU time so far of all processes whose program is named like the runtime: berth and berth-monitor, containerd and its
// shims. /proc/PID/stat counts in ticks of 10 ms (proc_pid_stat(5)), so it takes many calls to tell.
func (p *peer) cpu() time.Duration {
	var ticks uint64
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, name := range stats {
		b, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		open, end := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
		if open < 0 || end < open || !strings.HasPrefix(string(b[open+1:end]), p.name) {
			continue
		}
		f := strings.Fields(string(b[end+1:]))
		if len(f) < 13 {
			continue
		}
		for _, s := range f[11:13] { // utime, stime
			n, _ := strconv.ParseUint(s, 10, 64)
			ticks += n
		}
	}
	return time.Duration(ticks) * 10 * time.Millisecond
}
