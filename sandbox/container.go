package sandbox

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/protobuf/proto"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/oci/cgroup"
	"github.com/berth-runtime/berth/sandbox/compile"
	"github.com/berth-runtime/berth/sandbox/monitor"
	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// exitUnknown is the exit code of a container whose end nobody saw; startFailed that of one whose command could not
// be started. Users and controllers know both numbers.
const (
	exitUnknown = 255
	startFailed = 128
)

// Container is one container of a pod. Its request never changes; what changes is in view.
type Container struct {
	m    *Manager
	pod  *Pod
	id   string
	cfg  *rt.ContainerConfig
	user *rt.LinuxContainerUser
	view atomic.Pointer[containerView]
	exit chan struct{} // closed once view.ended is true
	end  deadline
	seen atomic.Pointer[monitor.Witness] // of the init, while it lives; or nil

	given atomic.Bool // what only a living container needs was given back

	limits sync.Mutex // held while limits change; before mu

	mu       sync.Mutex // guards the fields below and the writing of container.json
	rec      containerRecord
	group    *cgroup.Group
	starting bool       // the runtime is asked to start it
	early    *wire.Exit // reported meanwhile
	usage    writable
	lastCPU  cpuSample
}

// containerView is what readers see of a container. States only ever move forward: created, running, exited.
type containerView struct {
	startedAt  int64
	ended      bool
	finishedAt int64
	code       int32
	reason     string
	message    string
	resources  *rt.LinuxContainerResources
	pid        int
}

func (v *containerView) state() rt.ContainerState {
	switch {
	case v.ended:
		return rt.ContainerState_CONTAINER_EXITED
	case v.startedAt != 0:
		return rt.ContainerState_CONTAINER_RUNNING
	}
	return rt.ContainerState_CONTAINER_CREATED
}

func newContainer(p *Pod, rec containerRecord, cfg *rt.ContainerConfig) *Container {
	c := &Container{m: p.m, pod: p, id: rec.ID, cfg: cfg, rec: rec, exit: make(chan struct{}), user: new(rt.LinuxContainerUser)}
	if proto.Unmarshal(rec.User, c.user) != nil {
		c.user = nil
	}
	c.view.Store(&containerView{startedAt: rec.StartedAt, resources: decodeResources(rec.Resources)})
	return c
}

// containerKey is a container's identity in its pod (CRI ContainerMetadata).
func containerKey(pod string, md *rt.ContainerMetadata) string {
	return fmt.Sprintf("%s/%s/%d", pod, md.GetName(), md.GetAttempt())
}

// ID returns the container's id.
func (c *Container) ID() string { return c.id }

// TTY reports whether the container has a terminal.
func (c *Container) TTY() bool { return c.cfg.GetTty() }

func (c *Container) dir() string { return filepath.Join(c.pod.dir(), "c", c.id) }

// show replaces the view by a changed copy.
func (c *Container) show(f func(*containerView)) {
	for {
		old := c.view.Load()
		next := *old
		f(&next)
		if c.view.CompareAndSwap(old, &next) {
			return
		}
	}
}

// change alters the record under the lock and saves it.
func (c *Container) change(f func(*containerRecord)) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	f(&c.rec)
	return save(filepath.Join(c.dir(), "container.json"), &c.rec)
}

// finish shows the container as ended. The first end counts; it returns false for any other.
func (c *Container) finish(end containerView) bool {
	for {
		old := c.view.Load()
		if old.ended {
			return false
		}
		next := *old
		next.ended, next.finishedAt, next.code, next.reason, next.message = true, end.finishedAt, end.code, end.reason, end.message
		next.finishedAt = max(next.finishedAt, next.startedAt)
		if c.view.CompareAndSwap(old, &next) {
			close(c.exit)
			c.end.never()
			c.seen.Swap(nil).Close()
			return true
		}
	}
}

// watch notes which process the container's init is, as its monitor says.
func watch(c *Container, mon *monitor.Monitor, pid int) {
	c.show(func(v *containerView) { v.pid = pid })
	if mon == nil || pid == 0 {
		return
	}
	c.seen.Swap(mon.Watch(pid)).Close()
	if c.view.Load().ended {
		c.seen.Swap(nil).Close()
	}
}

// endOf turns the monitor's exit record into what status shows (CRI ContainerStatus reason, exit_code).
func endOf(e wire.Exit) containerView {
	v := containerView{finishedAt: e.FinishedAt, code: int32(e.Code)}
	switch {
	// A worker may have been killed while the container went on and completed: only an end by SIGKILL is the OOM
	// killer's doing.
	case e.OOMKilled && e.Code == 128+int(syscall.SIGKILL):
		v.reason = "OOMKilled"
	case e.Code == 0:
		v.reason = "Completed"
	default:
		v.reason = "Error"
	}
	return v
}

// Status answers ContainerStatus. verbose adds what helps a person to look into the container.
func (c *Container) Status(verbose bool) (*rt.ContainerStatusResponse, error) {
	resp := &rt.ContainerStatusResponse{Status: c.status()}
	if verbose {
		resp.Info = containerInfo(c)
	}
	return resp, nil
}

func (c *Container) status() *rt.ContainerStatus {
	v := c.view.Load()
	s := &rt.ContainerStatus{
		Id: c.id, Metadata: c.cfg.GetMetadata(), State: v.state(), CreatedAt: c.rec.CreatedAt, StartedAt: v.startedAt,
		FinishedAt: v.finishedAt, ExitCode: v.code, Reason: v.reason, Message: v.message,
		Image:    &rt.ImageSpec{Image: c.rec.ImageName, UserSpecifiedImage: c.cfg.GetImage().GetUserSpecifiedImage(), Annotations: c.cfg.GetImage().GetAnnotations()},
		ImageRef: c.rec.ImageRef, ImageId: c.rec.ImageID,
		Labels: c.cfg.GetLabels(), Annotations: c.cfg.GetAnnotations(), Mounts: c.cfg.GetMounts(), LogPath: c.rec.LogPath,
		StopSignal: compile.WireSignal(syscall.Signal(c.rec.StopSignal)),
	}
	if v.resources != nil {
		s.Resources = &rt.ContainerResources{Linux: v.resources}
	}
	if c.user != nil {
		s.User = &rt.ContainerUser{Linux: c.user}
	}
	return s
}

func containerItem(c *Container) *rt.Container {
	return &rt.Container{
		Id: c.id, PodSandboxId: c.pod.id, Metadata: c.cfg.GetMetadata(), Image: c.cfg.GetImage(),
		ImageRef: c.rec.ImageID, ImageId: c.rec.ImageID, State: c.view.Load().state(), CreatedAt: c.rec.CreatedAt,
		Labels: c.cfg.GetLabels(), Annotations: c.cfg.GetAnnotations(),
	}
}

// ListContainers answers ListContainers: the fields of the filter that are set must all match.
func (m *Manager) ListContainers(f *rt.ContainerFilter) []*rt.Container {
	x := m.index.Load()
	wantID, wantPod := "", ""
	if id := f.GetId(); id != "" {
		c, err := lookup(x.ctrs, "container", id)
		if err != nil {
			return nil
		}
		wantID = c.id
	}
	if id := f.GetPodSandboxId(); id != "" {
		p, err := lookup(x.pods, "pod", id)
		if err != nil {
			return nil
		}
		wantPod = p.id
	}
	var out []*rt.Container
	for _, c := range x.ctrList {
		switch {
		case wantID != "" && c.id != wantID, wantPod != "" && c.pod.id != wantPod:
		case f.GetState() != nil && f.GetState().GetState() != c.view.Load().state():
		case !matches(c.cfg.GetLabels(), f.GetLabelSelector()):
		default:
			out = append(out, containerItem(c))
		}
	}
	return out
}

// running returns nil while the container runs.
func (c *Container) running() error {
	if c.view.Load().state() != rt.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("container %s: %w", short(c.id), ErrNotRunning)
	}
	return nil
}

// ended handles the monitor's word that the container's init is gone. exit.json has been written before.
func (c *Container) ended(e wire.Exit) {
	c.mu.Lock()
	if c.starting {
		// Whether this is the end of the command, or of an init that could not exec it, is for the start to say.
		c.early = &e
		c.mu.Unlock()
		return
	}
	c.mu.Unlock()
	if !c.finish(endOf(e)) {
		return
	}
	c.pod.emit(rt.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id)
	footprint{c}.release()
}

// fail records that the container can't run any more for a reason that no exit record tells.
func fail(c *Container, end containerView, alter func(*containerRecord)) {
	if end.finishedAt == 0 {
		end.finishedAt = time.Now().UnixNano()
	}
	if err := c.change(func(r *containerRecord) { r.EndedAt = end.finishedAt; alter(r) }); err != nil {
		c.m.opt.Log.Warn("container record not saved", "container", c.id, "err", err)
	}
	if c.finish(end) {
		c.pod.emit(rt.ContainerEventType_CONTAINER_STOPPED_EVENT, c.id)
		footprint{c}.release()
	}
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
