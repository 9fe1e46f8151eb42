// Command bench drives one or more CRI sockets in turn through whole pod lives and prints, for each call, the minimum,
// the median and the 90th percentile, and the ratio of the medians to the first socket's.
//
//	go run ./hack/bench -n 30 -image registry.k8s.io/e2e-test-images/busybox:1.29-2 berth=/run/berth/berth.sock containerd=/run/containerd/containerd.sock
//
// Sockets take turns pod by pod, so that a drift of the machine's speed meets all alike. Pods are -gap apart: back to back
// runs hide the kernel's RCU waits. Absolute times are the machine's; compare within one run.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// steps are the measured calls in the order of a pod's life; "pod up" and "whole life" are sums.
var steps = [...]string{"RunPodSandbox", "CreateContainer", "StartContainer", "pod up", "ExecSync", "StopContainer", "RemoveContainer", "StopPodSandbox", "RemovePodSandbox", "whole life"}

type options struct {
	n       int
	gap     time.Duration
	image   string
	hostNet bool
	parent  string
	lists   int
}

type peer struct {
	name  string
	rt    rt.RuntimeServiceClient
	img   rt.ImageServiceClient
	times map[string][]time.Duration
}

func main() {
	var o options
	flag.IntVar(&o.n, "n", 30, "pods per socket")
	flag.DurationVar(&o.gap, "gap", 50*time.Millisecond, "pause between pods")
	flag.StringVar(&o.image, "image", "registry.k8s.io/e2e-test-images/busybox:1.29-2", "image with sleep and true; pulled first")
	flag.BoolVar(&o.hostNet, "host-network", false, "pods on the host's network")
	flag.StringVar(&o.parent, "cgroup-parent", "", "cgroup parent of the pods")
	flag.IntVar(&o.lists, "lists", 0, "instead of lives: bring up this many pods and read their lists and stats, -n times each")
	flag.Parse()
	if err := run(o, flag.Args()); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(o options, sockets []string) error {
	var peers []*peer
	for _, s := range sockets {
		name, path, ok := strings.Cut(s, "=")
		if !ok {
			return fmt.Errorf("socket %q: want name=path", s)
		}
		conn, err := grpc.NewClient("unix://"+path, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(32<<20)))
		if err != nil {
			return err
		}
		defer conn.Close()
		p := &peer{name: name, rt: rt.NewRuntimeServiceClient(conn), img: rt.NewImageServiceClient(conn), times: map[string][]time.Duration{}}
		if _, err := p.img.PullImage(context.Background(), &rt.PullImageRequest{Image: &rt.ImageSpec{Image: o.image}}); err != nil {
			return fmt.Errorf("%s: pull: %w", name, err)
		}
		peers = append(peers, p)
	}
	if o.lists > 0 {
		return lists(context.Background(), peers, o)
	}
	for i := range o.n + 2 { // the first two are warm-up
		for _, p := range peers {
			if i == 2 {
				clear(p.times)
			}
			if err := p.life(context.Background(), o, i); err != nil {
				return fmt.Errorf("%s: pod %d: %w", p.name, i, err)
			}
			time.Sleep(o.gap)
		}
	}
	report(peers, o)
	return nil
}

// timed runs one call and notes how long it took.
func (p *peer) timed(step string, f func() error) error {
	t := time.Now()
	err := f()
	p.times[step] = append(p.times[step], time.Since(t))
	if err != nil {
		return fmt.Errorf("%s: %w", step, err)
	}
	return nil
}

// configs are the i-th pod and its container, as kubelet would ask for them.
func (o options) configs(i int) (*rt.PodSandboxConfig, *rt.ContainerConfig) {
	ns := &rt.NamespaceOption{Pid: rt.NamespaceMode_CONTAINER}
	if o.hostNet {
		ns.Network = rt.NamespaceMode_NODE
	}
	pod := &rt.PodSandboxConfig{
		Metadata: &rt.PodSandboxMetadata{Name: "bench", Namespace: "bench", Uid: fmt.Sprintf("bench-%d-%d", os.Getpid(), i)},
		Linux: &rt.LinuxPodSandboxConfig{CgroupParent: o.parent, SecurityContext: &rt.LinuxSandboxSecurityContext{
			NamespaceOptions: ns, Seccomp: &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault}}},
	}
	ctr := &rt.ContainerConfig{
		Metadata: &rt.ContainerMetadata{Name: "main"}, Image: &rt.ImageSpec{Image: o.image}, Command: []string{"sleep", "3600"},
		Linux: &rt.LinuxContainerConfig{SecurityContext: &rt.LinuxContainerSecurityContext{
			NamespaceOptions: ns, Seccomp: &rt.SecurityProfile{ProfileType: rt.SecurityProfile_RuntimeDefault},
			MaskedPaths:   []string{"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware"},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}}},
	}
	return pod, ctr
}

func (p *peer) life(ctx context.Context, o options, i int) error {
	pod, ctr := o.configs(i)
	begin := time.Now()
	var podID, id string
	calls := []struct {
		step string
		f    func() error
	}{
		{"RunPodSandbox", func() error {
			r, err := p.rt.RunPodSandbox(ctx, &rt.RunPodSandboxRequest{Config: pod})
			podID = r.GetPodSandboxId()
			return err
		}},
		{"CreateContainer", func() error {
			r, err := p.rt.CreateContainer(ctx, &rt.CreateContainerRequest{PodSandboxId: podID, Config: ctr, SandboxConfig: pod})
			id = r.GetContainerId()
			return err
		}},
		{"StartContainer", func() error {
			_, err := p.rt.StartContainer(ctx, &rt.StartContainerRequest{ContainerId: id})
			p.times["pod up"] = append(p.times["pod up"], time.Since(begin))
			return err
		}},
		{"ExecSync", func() error {
			_, err := p.rt.ExecSync(ctx, &rt.ExecSyncRequest{ContainerId: id, Cmd: []string{"true"}, Timeout: 10})
			return err
		}},
		{"StopContainer", func() error {
			_, err := p.rt.StopContainer(ctx, &rt.StopContainerRequest{ContainerId: id})
			return err
		}},
		{"RemoveContainer", func() error {
			_, err := p.rt.RemoveContainer(ctx, &rt.RemoveContainerRequest{ContainerId: id})
			return err
		}},
		{"StopPodSandbox", func() error {
			_, err := p.rt.StopPodSandbox(ctx, &rt.StopPodSandboxRequest{PodSandboxId: podID})
			return err
		}},
		{"RemovePodSandbox", func() error {
			_, err := p.rt.RemovePodSandbox(ctx, &rt.RemovePodSandboxRequest{PodSandboxId: podID})
			return err
		}},
	}
	for _, c := range calls {
		if err := p.timed(c.step, c.f); err != nil {
			return err
		}
	}
	p.times["whole life"] = append(p.times["whole life"], time.Since(begin))
	return nil
}

func report(peers []*peer, o options) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(w, "ms, %d pods each, %s apart\t", o.n, o.gap)
	for _, p := range peers {
		fmt.Fprintf(w, "%s min\tp50\tp90\tratio\t", p.name)
	}
	fmt.Fprintln(w)
	for _, s := range steps {
		fmt.Fprintf(w, "%s\t", s)
		var base float64
		for i, p := range peers {
			t := slices.Sorted(slices.Values(p.times[s]))
			p50 := ms(t[len(t)/2])
			if i == 0 {
				base = p50
			}
			fmt.Fprintf(w, "%.2f\t%.2f\t%.2f\t%.1f\t", ms(t[0]), p50, ms(t[len(t)*9/10]), p50/base)
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
