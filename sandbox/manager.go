package sandbox

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/cdi"
	"github.com/berth-runtime/berth/sandbox/event"
	"github.com/berth-runtime/berth/sandbox/handler"
	"github.com/berth-runtime/berth/sandbox/host"
	"github.com/berth-runtime/berth/sandbox/operation"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/oci"
)

// Errors of state. What is missing, present or malformed is said with fs.ErrNotExist, fs.ErrExist and fs.ErrInvalid.
var (
	ErrNotRunning = errors.New("container is not running")
	ErrNotReady   = errors.New("pod is not ready")
	ErrNotCreated = errors.New("container is not in state created")
	// ErrImageVolume is wrapped by the errors of mounts that are images.
	ErrImageVolume = errors.New("image volume")
)

// Options are what a Manager stands on. The image store and the network stay the caller's to close.
type Options struct {
	Root, State     string // absolute directories, made by Open where missing
	NetnsDir        string // where network namespaces are pinned; "" is /run/netns
	Images          *image.Store
	Network         *netplugin.Manager
	Handlers        []oci.Handler // the first is the default, also known as ""
	MonitorBin      string        // berth-monitor
	CDIDirs         []string      // of CDI device descriptions; nil: cdi.DefaultDirs
	SystemdCgroup   bool
	PidsLimit       int64  // per container, 0 = none
	AppArmorProfile string // of containers that ask for none; as compile.Options has it
	LogLineMax      int    // bytes of content after which a log line is split; 0 = 16384
	Log             *slog.Logger
	SampleInterval  int  // seconds between samples of writable layers; 0 = 10
	AttachShm       bool // pods' /dev/shm is kept as on kernels that can't clone detached mounts; for tests
}

// Manager owns the pods and containers of one daemon.
type Manager struct {
	opt     Options
	runtime handler.Set
	host    host.Facts
	boot    string
	index   atomic.Pointer[index]
	mu      sync.Mutex // guards replacing index
	ops     operation.Set
	events  event.Broadcaster
	made    sync.Map     // cgroup parents of our making: path -> nothing; pods that nobody lists may still have them
	scraped atomic.Int64 // when metrics were last asked for, ns
	stop    context.CancelFunc
	life    context.Context
	bg      sync.WaitGroup
}

// index is an immutable view of all objects. Lists keep the order of creation.
type index struct {
	pods     map[string]*Pod
	ctrs     map[string]*Container
	podNames map[string]*Pod       // by podKey
	ctrNames map[string]*Container // by containerKey
	podList  []*Pod
	ctrList  []*Container
}

// update replaces the index by a changed copy.
func (m *Manager) update(change func(*index)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	old := m.index.Load()
	next := &index{
		pods: maps.Clone(old.pods), ctrs: maps.Clone(old.ctrs),
		podNames: maps.Clone(old.podNames), ctrNames: maps.Clone(old.ctrNames),
		podList: slices.Clone(old.podList), ctrList: slices.Clone(old.ctrList),
	}
	change(next)
	m.index.Store(next)
}

func (x *index) addPod(p *Pod) {
	if _, ok := x.pods[p.id]; ok {
		return
	}
	x.pods[p.id] = p
	x.podNames[p.cfg.key()] = p
	x.podList = append(x.podList, p)
}

func (x *index) dropPod(p *Pod) {
	delete(x.pods, p.id)
	if x.podNames[p.cfg.key()] == p {
		delete(x.podNames, p.cfg.key())
	}
	x.podList = slices.DeleteFunc(x.podList, func(o *Pod) bool { return o == p })
}

func (x *index) addContainer(c *Container) {
	x.ctrs[c.id] = c
	x.ctrNames[containerKey(c.pod.id, c.cfg.GetMetadata())] = c
	x.ctrList = append(x.ctrList, c)
}

func (x *index) dropContainer(c *Container) {
	delete(x.ctrs, c.id)
	if x.ctrNames[containerKey(c.pod.id, c.cfg.GetMetadata())] == c {
		delete(x.ctrNames, containerKey(c.pod.id, c.cfg.GetMetadata()))
	}
	x.ctrList = slices.DeleteFunc(x.ctrList, func(o *Container) bool { return o == c })
}

// containersOf returns the pod's containers in order of creation.
func (x *index) containersOf(p *Pod) []*Container {
	var out []*Container
	for _, c := range x.ctrList {
		if c.pod == p {
			out = append(out, c)
		}
	}
	return out
}

// Open makes the manager and brings back what an earlier daemon left: pods whose monitors live are served on, the
// rest becomes history, half-made things are removed. It returns when every object is known.
func Open(ctx context.Context, opt Options) (*Manager, error) {
	if len(opt.Handlers) == 0 {
		return nil, fmt.Errorf("open pods: no runtime handler: %w", fs.ErrInvalid)
	}
	if opt.NetnsDir == "" {
		opt.NetnsDir = "/run/netns"
	}
	if opt.CDIDirs == nil {
		opt.CDIDirs = cdi.DefaultDirs()
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	facts, err := host.Read(opt.SystemdCgroup)
	if err != nil {
		return nil, fmt.Errorf("read host facts: %w", err)
	}
	boot, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return nil, fmt.Errorf("read boot id: %w", err)
	}
	dirs := []string{filepath.Join(opt.Root, "pods"), filepath.Join(opt.State, "pods"), filepath.Join(opt.State, "oci")}
	for _, h := range opt.Handlers {
		dirs = append(dirs, h.Root)
	}
	for _, dir := range dirs {
		if err := os.MkdirAll(dir, 0o711); err != nil {
			return nil, err
		}
	}
	m := &Manager{opt: opt, host: facts, boot: string(boot[:36])}
	m.life, m.stop = context.WithCancel(context.WithoutCancel(ctx))
	m.index.Store(&index{pods: map[string]*Pod{}, ctrs: map[string]*Container{}, podNames: map[string]*Pod{}, ctrNames: map[string]*Container{}})
	m.runtime.Discover(ctx, opt.Handlers, opt.Log)
	if m.runtime.Foreign() {
		if err := m.roots().Open(); err != nil {
			return nil, err
		}
	}
	if err := m.recover(ctx); err != nil {
		return nil, fmt.Errorf("recover pods: %w", err)
	}
	m.bg.Add(1)
	// ends when Close cancels m.life.
	go func() {
		defer m.bg.Done()
		m.sample()
	}()
	return m, nil
}

// Close ends the manager's own goroutines and lets the monitors go; pods keep running. Operations in flight are
// waited for as long as ctx allows.
func (m *Manager) Close(ctx context.Context) error {
	err := m.ops.Drain(ctx)
	m.stop()
	for _, p := range m.index.Load().podList {
		if mon := p.sup.mon.Load(); mon != nil {
			mon.Close()
		}
	}
	m.bg.Wait()
	if len(m.index.Load().podList) == 0 {
		// Nobody uses the network any more: what the plugins keep between pods, such as a bridge, is given back.
		err = errors.Join(err, m.opt.Network.Collect(ctx, nil))
		m.roots().Close()
	}
	return err
}

// Events returns the events from now on (CRI GetContainerEvents). The channel is closed when ctx ends, or when the
// reader lagged more than a few thousand events behind.
func (m *Manager) Events(ctx context.Context) <-chan *rt.ContainerEventResponse {
	return m.events.Subscribe(ctx)
}

// Pod finds a pod by id or unique prefix.
func (m *Manager) Pod(id string) (*Pod, error) { return lookup(m.index.Load().pods, "pod", id) }

// Container finds a container by id or unique prefix.
func (m *Manager) Container(id string) (*Container, error) {
	return lookup(m.index.Load().ctrs, "container", id)
}

// HandlerInfo is what Status reports of a runtime handler.
type HandlerInfo = handler.Info

// Handlers tells what of optional features each runtime handler has.
func (m *Manager) Handlers() []HandlerInfo { return m.runtime.Info(m.host) }

// paths

func (m *Manager) podDir(id string) string   { return filepath.Join(m.opt.Root, "pods", id) }
func (m *Manager) podState(id string) string { return filepath.Join(m.opt.State, "pods", id) }
func (m *Manager) roots() handler.Roots      { return handler.Roots(filepath.Join(m.opt.State, "roots")) }
func (m *Manager) netnsPath(id string) string {
	return filepath.Join(m.opt.NetnsDir, "berth-"+id)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// newID makes an id of 64 lower-case hex digits, the form that cAdvisor's cgroup matchers and other tools expect.
func newID() string {
	var b [32]byte
	rand.Read(b[:]) // never fails since Go 1.24
	return hex.EncodeToString(b[:])
}

// validID reports whether s has the form of newID: only such names are ever taken for objects on disk.
func validID(s string) bool {
	if len(s) != 64 {
		return false
	}
	return strings.Trim(s, "0123456789abcdef") == ""
}

// lookup finds the object of exactly this id, or else the only one whose id begins with it.
// An empty id is an error: it would match everything.
func lookup[T any](all map[string]T, kind, id string) (T, error) {
	var none T
	if id == "" {
		return none, fmt.Errorf("%s id is empty: %w", kind, fs.ErrInvalid)
	}
	if v, ok := all[id]; ok {
		return v, nil
	}
	var found T
	n := 0
	for k, v := range all {
		if strings.HasPrefix(k, id) {
			found = v
			n++
		}
	}
	switch n {
	case 1:
		return found, nil
	case 0:
		return none, fmt.Errorf("%s %s: %w", kind, short(id), fs.ErrNotExist)
	}
	return none, fmt.Errorf("%s %s: %d ids begin with it: %w", kind, short(id), n, fs.ErrInvalid)
}

// short bounds what of a foreign id goes into an error text.
func short(id string) string {
	if validID(id) {
		return id[:12]
	}
	if len(id) > 80 {
		id = id[:80] + "…"
	}
	return fmt.Sprintf("%q", id)
}
