package sandbox

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/ns"
)

func sortBy[T any](s []T, at func(T) int64) {
	slices.SortStableFunc(s, func(a, b T) int { return cmp.Compare(at(a), at(b)) })
}

// emit tells the subscribers what happened to an object of the pod, with the statuses of that moment.
func (p *Pod) emit(kind rt.ContainerEventType, id string) {
	if !p.m.events.interested() {
		return
	}
	e := &rt.ContainerEventResponse{ContainerId: id, ContainerEventType: kind, CreatedAt: time.Now().UnixNano(), PodSandboxStatus: p.status()}
	for _, c := range p.m.index.Load().containersOf(p) {
		e.ContainersStatuses = append(e.ContainersStatuses, c.status())
	}
	p.m.events.publish(e)
}

// podInfo is the verbose part of a pod's status: JSON for people and for crictl.
func podInfo(p *Pod) map[string]string {
	pid := 0
	if mon := p.sup.mon.Load(); mon != nil {
		pid = mon.Pid()
	}
	return asInfo(map[string]any{
		"pid": pid, "netNamespacePath": p.netns(), "netNamespaceClosed": p.netns() != "" && !exists(p.netns()),
		"runtimeHandler": p.rec.Handler, "cgroupParent": p.rec.Parent, "config": p.cfg.PodSandboxConfig,
		"overhead": decodeResources(p.rec.Overhead), "resources": decodeResources(p.rec.Resources),
		"cniResult": p.m.opt.Network.Result(p.id),
	})
}

// containerInfo is the verbose part of a container's status.
func containerInfo(c *Container) map[string]string {
	v := c.view.Load()
	var spec json.RawMessage
	if b, err := os.ReadFile(filepath.Join(c.dir(), "config.json")); err == nil {
		spec = b
	}
	pid := v.pid
	if v.ended {
		pid = 0
	}
	return asInfo(map[string]any{
		"sandboxID": c.pod.id, "pid": pid, "removing": false, "snapshotKey": c.id, "snapshotter": "overlay",
		"runtimeType": c.pod.handler.Name, "config": c.cfg, "runtimeSpec": spec,
		"privileged": c.cfg.GetLinux().GetSecurityContext().GetPrivileged(),
	})
}

func asInfo(v map[string]any) map[string]string {
	b, err := json.Marshal(v)
	if err != nil {
		b = fmt.Appendf(nil, "{%q:%q}", "error", err)
	}
	return map[string]string{"info": string(b)}
}

// Update stores what kubelet says about the pod's overhead and resources (CRI UpdatePodSandboxResources). Limits of
// the pod's cgroup are kubelet's to write; we keep the values for verbose status.
func (p *Pod) Update(_ context.Context, overhead, resources *rt.LinuxContainerResources) error {
	return p.change(func(r *podRecord) { r.Overhead, r.Resources = encode(overhead), encode(resources) })
}

// Dial connects to a port inside the pod's network, over IPv4 loopback and then IPv6 (CRI PortForward).
func (p *Pod) Dial(ctx context.Context, port int32) (net.Conn, error) {
	if !p.view.Load().ready {
		return nil, fmt.Errorf("port-forward: pod %s: %w", short(p.id), ErrNotReady)
	}
	var first error
	for _, host := range []string{"127.0.0.1", "::1"} {
		conn, err := dial(ctx, p.netns(), net.JoinHostPort(host, strconv.Itoa(int(port))))
		if err == nil {
			return conn, nil
		}
		if first == nil {
			first = err
		}
	}
	return nil, fmt.Errorf("port-forward: pod %s port %d: %w", short(p.id), port, first)
}

func dial(ctx context.Context, netns, addr string) (net.Conn, error) {
	if netns != "" {
		return ns.Dial(ctx, netns, "tcp", addr)
	}
	return new(net.Dialer).DialContext(ctx, "tcp", addr)
}
