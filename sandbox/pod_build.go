package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/berth-runtime/berth/sandbox/operation"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/ns"
)

// How long an operation may take when its client has stopped waiting. kubelet waits four minutes for a pod.
const (
	buildBudget = 5 * time.Minute
	clearBudget = 2 * time.Minute
)

// defaultParent is the cgroup above the pods whose client names no parent.
const defaultParent = "/berth"

// shmSize is the size of a pod's /dev/shm: 64 MiB, as every other runtime gives.
const shmSize = 64 << 20

// Run answers RunPodSandbox: it makes the pod, or joins the making of it, and returns the id. A pod of this identity
// that is ready already is returned if it was asked for in the same words.
func (m *Manager) Run(ctx context.Context, cfg *rt.PodSandboxConfig, handler string) (string, error) {
	if err := compile.CheckPod(cfg); err != nil {
		return "", err
	}
	h, err := m.runtime.Usable(ctx, handler)
	if err != nil {
		return "", err
	}
	raw := encode(cfg)
	key := podKey(cfg.GetMetadata())
	req := operation.Request{Key: "run pod " + key, Digest: digest(raw, []byte(handler)), Budget: buildBudget}
	return m.ops.Do(ctx, req, func(ctx context.Context, op *operation.Operation) (string, error) {
		if p, ok := m.index.Load().podNames[key]; ok {
			if p.view.Load().ready && digest(p.rec.Config, []byte(p.rec.Handler)) == req.Digest {
				return p.id, nil
			}
			return "", fmt.Errorf("run pod %s: pod %s has this name and attempt: %w", key, short(p.id), fs.ErrExist)
		}
		rec := podRecord{ID: newID(), Boot: m.boot, CreatedAt: time.Now().UnixNano(), Handler: handler, Config: raw}
		p := newPod(m, rec, cfg, h)
		b := building{p}
		if err := b.run(ctx, op); err != nil {
			b.abandon(op, err)
			return "", fmt.Errorf("run pod %s: %w", key, err)
		}
		m.update(func(x *index) { x.addPod(p) })
		p.emit(rt.ContainerEventType_CONTAINER_CREATED_EVENT, p.id)
		p.emit(rt.ContainerEventType_CONTAINER_STARTED_EVENT, p.id)
		return p.id, nil
	})
}

// abandon removes a pod that could not be built. What can't be removed stays visible as not ready, so that its
// client raises the attempt and comes back to remove it.
func (b building) abandon(op *operation.Operation, cause error) {
	p := b.p
	ctx, cancel := context.WithTimeout(p.m.life, clearBudget)
	defer cancel()
	err := p.clear(ctx, op)
	if err == nil {
		err = removeAll(p.dir())
	}
	if err == nil {
		return
	}
	p.m.opt.Log.Warn("pod is left not ready", "pod", p.id, "cause", cause, "err", err)
	p.change(func(r *podRecord) { r.Ready, r.Stopped = false, true })
	p.m.update(func(x *index) { x.addPod(p) })
}

// building is the making of one pod.
type building struct{ p *Pod }

// run makes the pod, step by step in a straight line. Each resource can be found again from the record or the id.
func (b building) run(ctx context.Context, op *operation.Operation) error {
	p := b.p
	op.At("write record")
	if err := b.prepare(); err != nil {
		return fmt.Errorf("write record: %w", err)
	}
	op.At("make pod cgroup")
	if err := b.makeCgroup(); err != nil {
		return fmt.Errorf("make pod cgroup: %w", err)
	}
	op.At("start monitor")
	mon, err := monitor.Start(ctx, monitor.Config{Bin: p.m.opt.MonitorBin, Dir: p.state(), OOMScoreAdj: -999})
	if err != nil {
		return fmt.Errorf("start monitor: %w", err)
	}
	p.adopt(mon)
	op.At("make namespaces")
	if err := b.makeNamespaces(ctx, mon); err != nil {
		return fmt.Errorf("make namespaces: %w", err)
	}
	op.At("make shared memory")
	if err := b.makeShm(ctx, mon); err != nil {
		return fmt.Errorf("make shared memory: %w", err)
	}
	op.At("attach network")
	ips, err := b.attachNetwork(ctx)
	if err != nil {
		return fmt.Errorf("attach network: %w", err)
	}
	op.At("mark ready")
	if err := b.markReady(ips); err != nil {
		return fmt.Errorf("mark ready: %w", err)
	}
	return nil
}

// markReady is the step after which the pod is its client's. A monitor that died meanwhile was noticed by lost, which
// takes the monitor away before it asks for the lock that is held here: the pod can't be ready without one.
func (b building) markReady(ips []string) error {
	p := b.p
	var gone error
	err := p.change(func(r *podRecord) {
		if gone = p.sup.present(); gone == nil {
			r.Ready, r.IPs = true, ips
		}
	})
	return errors.Join(gone, err)
}

// prepare writes the record and the files that containers of the pod see.
func (b building) prepare() error {
	p := b.p
	parent := p.cfg.GetLinux().GetCgroupParent()
	own := false
	switch {
	case parent == "" && p.m.opt.SystemdCgroup:
		parent = "berth.slice"
	case parent == "":
		parent, own = defaultParent+"/"+p.id, true
	case !p.m.opt.SystemdCgroup:
		_, err := cgroup.Open(parent)
		own = errors.Is(err, fs.ErrNotExist)
		_, made := p.m.made.Load(parent)
		own = own || made // the last of those who share it removes it
	}
	if own {
		p.m.made.Store(parent, nil)
	}
	for _, dir := range []string{p.dir(), p.state(), p.nsDir()} {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return err
		}
	}
	if err := p.change(func(r *podRecord) { r.Parent, r.OwnParent = parent, own }); err != nil {
		return err
	}
	return b.writeFiles()
}

// writeFiles makes hostname, resolv.conf and hosts. They belong to root here; a pod with a user namespace sees them
// id-mapped.
func (b building) writeFiles() error {
	p := b.p
	hostname := p.cfg.hostname(p.m.host.Compile.Hostname)
	var resolvConf, hosts []byte
	if p.cfg.GetDnsConfig() == nil {
		b, err := os.ReadFile("/etc/resolv.conf")
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		resolvConf = b
	}
	hosts, err := os.ReadFile("/etc/hosts")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for name, content := range map[string][]byte{
		"hostname":    []byte(hostname + "\n"),
		"resolv.conf": compile.Resolv(p.cfg.GetDnsConfig(), resolvConf),
		"hosts":       hosts,
	} {
		if err := replace(filepath.Join(p.dir(), name), content, 0o644); err != nil {
			return err
		}
	}
	return nil
}

func (m *Manager) driver() cgroup.Driver {
	if m.opt.SystemdCgroup {
		return "systemd"
	}
	return "cgroupfs"
}

// makeCgroup makes the pod's cgroup where its client did not. systemd makes slices itself as their scopes come.
func (b building) makeCgroup() error {
	p := b.p
	if p.m.opt.SystemdCgroup {
		return nil
	}
	// Another pod's removal may take an empty directory from under our hands: one that is not there (ENOENT), or whose files
	// have no directory any more (ENODEV).
	var err error
	for range 10 {
		if _, err = cgroup.Create(p.rec.Parent, p.m.driver()); !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENODEV) {
			break
		}
	}
	return err
}

// makeShm makes the memory file system that the pod's containers share as /dev/shm. It is never mounted on the host:
// the monitor keeps the detached mount and hands it to the runtime of each container. Where the kernel can't clone such a mount it is
// attached, in a mount namespace of its own; that is what is kept then, and each runtime gets a clone.
func (b building) makeShm(ctx context.Context, mon *monitor.Monitor) error {
	p := b.p
	if p.cfg.hostIPC() {
		return nil
	}
	uid, gid := p.cfg.rootIDs()
	f, err := detachedTmpfs(map[string]string{
		"source": "shm", "size": fmt.Sprint(shmSize), "mode": "1777", "uid": fmt.Sprint(uid), "gid": fmt.Sprint(gid),
	})
	if err != nil {
		return err
	}
	defer f.Close()
	if p.m.attachShm() {
		if f, err = ns.Attach(f, p.state()); err != nil {
			return err
		}
		defer f.Close()
	}
	return mon.Hold(ctx, "shm", f)
}

// attachShm says whether the pods' shared memory has to be attached somewhere to be cloned.
func (m *Manager) attachShm() bool { return m.opt.AttachShm || !m.host.DetachedClone }

// detachedTmpfs makes a tmpfs that is mounted nowhere (fsopen, fsmount: Linux 5.2). The caller closes it.
func detachedTmpfs(options map[string]string) (*os.File, error) {
	fsfd, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen tmpfs: %w", err)
	}
	defer unix.Close(fsfd)
	for k, v := range options {
		if err := unix.FsconfigSetString(fsfd, k, v); err != nil {
			return nil, fmt.Errorf("set tmpfs %s=%s: %w", k, v, err)
		}
	}
	if err := unix.FsconfigCreate(fsfd); err != nil {
		return nil, fmt.Errorf("create tmpfs: %w", err)
	}
	fd, err := unix.Fsmount(fsfd, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsmount tmpfs: %w", err)
	}
	return os.NewFile(uintptr(fd), "tmpfs"), nil
}

// attachNetwork has the network plugins connect the pod, and returns its addresses.
func (b building) attachNetwork(ctx context.Context) ([]string, error) {
	p := b.p
	if p.cfg.hostNetwork() {
		return nil, nil
	}
	md := p.cfg.GetMetadata()
	pod := netplugin.Pod{
		ID: p.id, Name: md.GetName(), Namespace: md.GetNamespace(), UID: md.GetUid(), NetNS: p.netns(),
		DNSServers: p.cfg.GetDnsConfig().GetServers(), DNSSearches: p.cfg.GetDnsConfig().GetSearches(), DNSOptions: p.cfg.GetDnsConfig().GetOptions(),
		CgroupPath: p.rec.Parent, Annotations: p.cfg.GetAnnotations(),
	}
	var err error
	if pod.IngressBW, pod.EgressBW, err = compile.Bandwidth(p.cfg.GetAnnotations()); err != nil {
		return nil, err
	}
	for _, pm := range p.cfg.GetPortMappings() {
		if pm.GetHostPort() <= 0 {
			continue
		}
		pod.Ports = append(pod.Ports, netplugin.Port{
			HostPort: uint16(pm.GetHostPort()), ContainerPort: uint16(pm.GetContainerPort()),
			Protocol: strings.ToLower(pm.GetProtocol().String()), HostIP: pm.GetHostIp(),
		})
	}
	res, err := p.m.opt.Network.Attach(ctx, pod)
	if err != nil {
		return nil, err
	}
	var ips []string
	for _, ip := range res.IPs {
		ips = append(ips, ip.String())
	}
	return ips, nil
}
