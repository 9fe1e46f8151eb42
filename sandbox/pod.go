package sandbox

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci"
)

// Pod is one pod sandbox. Its request never changes; what changes is in view, an immutable value for readers.
type Pod struct {
	m       *Manager
	id      string
	cfg     podConfig
	handler oci.Handler
	view    atomic.Pointer[podView]
	sup     supervisor

	mu       sync.Mutex // guards the fields below and the writing of pod.json
	rec      podRecord
	closing  bool               // no further containers or execs
	inflight sync.WaitGroup     // creations; Add only under mu while !closing
	ruins    []*Container       // half-made, known to nobody else
	cancel   context.CancelFunc // ends the creations in flight
	life     context.Context
	gauges   gauges
}

// podView is what readers see of a pod.
type podView struct {
	ready bool
	ips   []string
}

func newPod(m *Manager, rec podRecord, cfg *rt.PodSandboxConfig, h oci.Handler) *Pod {
	p := &Pod{m: m, id: rec.ID, cfg: podConfig{cfg}, handler: h, rec: rec}
	p.life, p.cancel = context.WithCancel(m.life)
	p.view.Store(&podView{ready: rec.Ready, ips: rec.IPs})
	return p
}

// podKey is a pod's identity for its client (CRI PodSandboxMetadata).
func podKey(md *rt.PodSandboxMetadata) string {
	return fmt.Sprintf("%s/%s/%s/%d", md.GetNamespace(), md.GetName(), md.GetUid(), md.GetAttempt())
}

// podConfig is a pod's request with the questions we ask of it.
type podConfig struct{ *rt.PodSandboxConfig }

func (c podConfig) key() string { return podKey(c.GetMetadata()) }

func (c podConfig) options() *rt.NamespaceOption {
	return c.GetLinux().GetSecurityContext().GetNamespaceOptions()
}

func (c podConfig) hostNetwork() bool { return c.options().GetNetwork() == rt.NamespaceMode_NODE }

func (c podConfig) hostIPC() bool { return c.options().GetIpc() == rt.NamespaceMode_NODE }

// hostname is the name the pod's containers see (CRI PodSandboxConfig.hostname).
func (c podConfig) hostname(host string) string {
	if name := c.GetHostname(); name != "" && !c.hostNetwork() {
		return name
	}
	return host
}

// userNS reports whether the pod has a user namespace of its own. The zero value of the mode says POD: only a request
// that has the options at all means it.
func (c podConfig) userNS() bool {
	o := c.options().GetUsernsOptions()
	return o != nil && o.GetMode() == rt.NamespaceMode_POD && len(o.GetUids()) > 0
}

// rootIDs are the host ids of the pod's user 0 and group 0.
func (c podConfig) rootIDs() (uid, gid int) { return c.hostIDs(0, 0) }

// hostIDs are the host's ids of a user and a group of the pod; ids that the pod does not map stay as they are.
func (c podConfig) hostIDs(uid, gid uint32) (int, int) {
	if !c.userNS() {
		return int(uid), int(gid)
	}
	o := c.options().GetUsernsOptions()
	return mapID(o.GetUids(), uid), mapID(o.GetGids(), gid)
}

func mapID(maps []*rt.IDMapping, id uint32) int {
	for _, m := range maps {
		if id >= m.GetContainerId() && id-m.GetContainerId() < m.GetLength() {
			return int(m.GetHostId()) + int(id-m.GetContainerId())
		}
	}
	return int(id)
}

// ID returns the pod's id.
func (p *Pod) ID() string { return p.id }

func (p *Pod) dir() string   { return p.m.podDir(p.id) }
func (p *Pod) state() string { return p.m.podState(p.id) }
func (p *Pod) nsDir() string { return filepath.Join(p.state(), "ns") }

// change alters the record under the lock, saves it and shows the result to readers.
func (p *Pod) change(f func(*podRecord)) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	f(&p.rec)
	err := save(filepath.Join(p.dir(), "pod.json"), &p.rec)
	p.view.Store(&podView{ready: p.rec.Ready, ips: slices.Clone(p.rec.IPs)})
	return err
}

// netns returns the pinned network namespace, "" for the host's.
func (p *Pod) netns() string {
	if p.cfg.hostNetwork() {
		return ""
	}
	return p.m.netnsPath(p.id)
}

// Status answers PodSandboxStatus. verbose adds what helps a person to look into the pod.
func (p *Pod) Status(verbose bool) (*rt.PodSandboxStatusResponse, error) {
	resp := &rt.PodSandboxStatusResponse{Status: p.status()}
	now := time.Now().UnixNano()
	for _, c := range p.m.index.Load().containersOf(p) {
		resp.ContainersStatuses = append(resp.ContainersStatuses, c.status())
	}
	resp.Timestamp = now
	if verbose {
		resp.Info = podInfo(p)
	}
	return resp, nil
}

func (p *Pod) status() *rt.PodSandboxStatus {
	v := p.view.Load()
	s := &rt.PodSandboxStatus{
		Id: p.id, Metadata: p.cfg.GetMetadata(), State: v.state(), CreatedAt: p.rec.CreatedAt,
		Network:        &rt.PodSandboxNetworkStatus{},
		Linux:          &rt.LinuxPodSandboxStatus{Namespaces: &rt.Namespace{Options: p.cfg.options()}},
		Labels:         p.cfg.GetLabels(),
		Annotations:    p.cfg.GetAnnotations(),
		RuntimeHandler: p.rec.Handler,
	}
	if s.Linux.Namespaces.Options == nil {
		s.Linux.Namespaces.Options = &rt.NamespaceOption{}
	}
	for i, ip := range v.ips {
		if i == 0 {
			s.Network.Ip = ip
		} else {
			s.Network.AdditionalIps = append(s.Network.AdditionalIps, &rt.PodIP{Ip: ip})
		}
	}
	return s
}

func (v *podView) state() rt.PodSandboxState {
	if v.ready {
		return rt.PodSandboxState_SANDBOX_READY
	}
	return rt.PodSandboxState_SANDBOX_NOTREADY
}

func podItem(p *Pod) *rt.PodSandbox {
	return &rt.PodSandbox{
		Id: p.id, Metadata: p.cfg.GetMetadata(), State: p.view.Load().state(), CreatedAt: p.rec.CreatedAt,
		Labels: p.cfg.GetLabels(), Annotations: p.cfg.GetAnnotations(), RuntimeHandler: p.rec.Handler,
	}
}

// ListPods answers ListPodSandbox: the fields of the filter that are set must all match.
func (m *Manager) ListPods(f *rt.PodSandboxFilter) []*rt.PodSandbox {
	x := m.index.Load()
	want := ""
	if id := f.GetId(); id != "" {
		p, err := lookup(x.pods, "pod", id)
		if err != nil {
			return nil
		}
		want = p.id
	}
	var out []*rt.PodSandbox
	for _, p := range x.podList {
		if want != "" && p.id != want {
			continue
		}
		if f.GetState() != nil && f.GetState().GetState() != p.view.Load().state() {
			continue
		}
		if matches(p.cfg.GetLabels(), f.GetLabelSelector()) {
			out = append(out, podItem(p))
		}
	}
	return out
}

// matches reports whether labels hold every pair of the selector.
func matches(labels, selector map[string]string) bool {
	for k, v := range selector {
		if have, ok := labels[k]; !ok || have != v {
			return false
		}
	}
	return true
}

// enter admits one creation into the pod, which must be ready and stay so until leave is called. The context ends
// when the pod is stopped.
func (p *Pod) enter(ctx context.Context) (context.Context, func(), error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closing || !p.rec.Ready {
		return nil, nil, fmt.Errorf("pod %s: %w", short(p.id), ErrNotReady)
	}
	p.inflight.Add(1)
	ctx, cancel := context.WithCancelCause(ctx)
	off := context.AfterFunc(p.life, func() { cancel(fmt.Errorf("pod %s is being stopped: %w", short(p.id), ErrNotReady)) })
	return ctx, func() { off(); cancel(nil); p.inflight.Done() }, nil
}

// stopped returns why the context of work admitted by enter was cancelled when that was the reason of err, else err.
func stopped(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, ErrNotReady) {
		return cause
	}
	return err
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

// Update stores what kubelet says about the pod's overhead and resources (CRI UpdatePodSandboxResources). Limits of
// the pod's cgroup are kubelet's to write; we keep the values for verbose status.
func (p *Pod) Update(_ context.Context, overhead, resources *rt.LinuxContainerResources) error {
	return p.change(func(r *podRecord) { r.Overhead, r.Resources = encode(overhead), encode(resources) })
}
