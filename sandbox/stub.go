// Package sandbox is a stub.
package sandbox

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/oci"
)

var (
	ErrNotRunning = errors.New("container is not running")
	ErrNotReady   = errors.New("pod is not ready")
	ErrNotCreated = errors.New("container is not in state created")
)

type Options struct {
	Root, State    string
	NetnsDir       string
	Images         *image.Store
	Network        *netplugin.Manager
	Handlers       []oci.Handler
	MonitorBin     string
	SystemdCgroup  bool
	PidsLimit      int64
	LogLineMax     int
	Log            *slog.Logger
	SampleInterval int
}

type Manager struct{}
type Pod struct{}
type Container struct{}
type Size struct{ Width, Height uint16 }
type ExecRequest struct {
	Cmd            []string
	TTY            bool
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan Size
}
type AttachRequest struct {
	Stdin          io.Reader
	Stdout, Stderr io.WriteCloser
	Resize         <-chan Size
}
type HandlerInfo struct {
	Name                             string
	RecursiveReadOnly, UserNamespace bool
}

func Open(context.Context, Options) (*Manager, error)                                { return &Manager{}, nil }
func (m *Manager) Close(context.Context) error                                       { return nil }
func (m *Manager) Handlers() []HandlerInfo                                           { return nil }
func (m *Manager) Run(context.Context, *rt.PodSandboxConfig, string) (string, error) { return "", nil }
func (m *Manager) Pod(id string) (*Pod, error)                                       { return nil, nil }
func (m *Manager) Container(id string) (*Container, error)                           { return nil, nil }
func (m *Manager) ListPods(*rt.PodSandboxFilter) []*rt.PodSandbox                    { return nil }
func (m *Manager) ListContainers(*rt.ContainerFilter) []*rt.Container                { return nil }
func (m *Manager) Events(context.Context) <-chan *rt.ContainerEventResponse          { return nil }
func (p *Pod) Stop(context.Context) error                                            { return nil }
func (p *Pod) Remove(context.Context) error                                          { return nil }
func (p *Pod) Status(bool) (*rt.PodSandboxStatusResponse, error)                     { return nil, nil }
func (p *Pod) Create(context.Context, *rt.ContainerConfig) (string, error)           { return "", nil }
func (p *Pod) Dial(context.Context, int32) (net.Conn, error)                         { return nil, nil }
func (p *Pod) Update(ctx context.Context, overhead, res *rt.LinuxContainerResources) error {
	return nil
}
func (p *Pod) Stats() (*rt.PodSandboxStats, error)                             { return nil, nil }
func (c *Container) Start(context.Context) error                               { return nil }
func (c *Container) Stop(context.Context, time.Duration) error                 { return nil }
func (c *Container) Remove(context.Context) error                              { return nil }
func (c *Container) Status(bool) (*rt.ContainerStatusResponse, error)          { return nil, nil }
func (c *Container) Update(context.Context, *rt.LinuxContainerResources) error { return nil }
func (c *Container) ReopenLog(context.Context) error                           { return nil }
func (c *Container) Stats() (*rt.ContainerStats, error)                        { return nil, nil }
func (c *Container) ExecSync(context.Context, []string, time.Duration) (*rt.ExecSyncResponse, error) {
	return nil, nil
}
func (c *Container) Exec(context.Context, ExecRequest) (int, error) { return 0, nil }
func (c *Container) Attach(context.Context, AttachRequest) error    { return nil }
func (c *Container) TTY() bool                                      { return false }
