package cri

import (
	"context"
	"fmt"
	"io/fs"
	"net"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/sandbox"
)

// execs answers for commands in containers and connections to pods.
type execs struct {
	m       *sandbox.Manager
	streams *stream.Server
}

// ExecSync runs a command and answers with its output. Its exit code is no error; a timeout is DeadlineExceeded, by
// which kubelet knows a failed probe.
func (e execs) ExecSync(ctx context.Context, req *rt.ExecSyncRequest) (*rt.ExecSyncResponse, error) {
	ctr, err := containers{e.m}.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, missing("cmd")
	}
	if req.GetTimeout() < 0 {
		return nil, fmt.Errorf("timeout %d: %w", req.GetTimeout(), fs.ErrInvalid)
	}
	return ctr.ExecSync(ctx, req.GetCmd(), seconds(req.GetTimeout()))
}

// Exec hands out the URL where the client finds its streams.
func (e execs) Exec(_ context.Context, req *rt.ExecRequest) (*rt.ExecResponse, error) {
	if err := e.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	if len(req.GetCmd()) == 0 {
		return nil, missing("cmd")
	}
	if err := checkStreams(req); err != nil {
		return nil, err
	}
	url, err := e.streams.URL(req)
	if err != nil {
		return nil, err
	}
	return &rt.ExecResponse{Url: url}, nil
}

// Attach hands out the URL where the client finds its streams.
func (e execs) Attach(_ context.Context, req *rt.AttachRequest) (*rt.AttachResponse, error) {
	if err := e.running(req.GetContainerId()); err != nil {
		return nil, err
	}
	if err := checkStreams(req); err != nil {
		return nil, err
	}
	url, err := e.streams.URL(req)
	if err != nil {
		return nil, err
	}
	return &rt.AttachResponse{Url: url}, nil
}

// PortForward hands out the URL where the client finds its streams.
func (e execs) PortForward(_ context.Context, req *rt.PortForwardRequest) (*rt.PortForwardResponse, error) {
	pod, err := pods{e.m}.find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	for i, port := range req.GetPort() {
		if port < 1 || port > 65535 {
			return nil, fmt.Errorf("port[%d] %d: %w", i, port, fs.ErrInvalid)
		}
	}
	st, err := pod.Status(false)
	if err != nil {
		return nil, err
	}
	if st.GetStatus().GetState() != rt.PodSandboxState_SANDBOX_READY {
		return nil, fmt.Errorf("pod %s: %w", req.GetPodSandboxId(), sandbox.ErrNotReady)
	}
	url, err := e.streams.URL(req)
	if err != nil {
		return nil, err
	}
	return &rt.PortForwardResponse{Url: url}, nil
}

// running refuses a container that does not run: better now than on a connection whose client sees less.
func (e execs) running(id string) error {
	ctr, err := containers{e.m}.find(id)
	if err != nil {
		return err
	}
	st, err := ctr.Status(false)
	if err != nil {
		return err
	}
	if st.GetStatus().GetState() != rt.ContainerState_CONTAINER_RUNNING {
		return fmt.Errorf("container %s: %w", id, sandbox.ErrNotRunning)
	}
	return nil
}

// checkStreams refuses what the protocols can't carry.
func checkStreams(req interface {
	GetStdin() bool
	GetStdout() bool
	GetStderr() bool
	GetTty() bool
}) error {
	if req.GetTty() && req.GetStderr() {
		return fmt.Errorf("tty and stderr exclude each other: %w", fs.ErrInvalid)
	}
	if !req.GetStdin() && !req.GetStdout() && !req.GetStderr() {
		return fmt.Errorf("none of stdin, stdout and stderr is set: %w", fs.ErrInvalid)
	}
	return nil
}

// sessions is what package stream needs of package sandbox.
type sessions struct{ m *sandbox.Manager }

func (s sessions) Exec(ctx context.Context, id string, req sandbox.ExecRequest) (int, error) {
	ctr, err := s.m.Container(id)
	if err != nil {
		return 0, err
	}
	return ctr.Exec(ctx, req)
}

func (s sessions) Attach(ctx context.Context, id string, req sandbox.AttachRequest) error {
	ctr, err := s.m.Container(id)
	if err != nil {
		return err
	}
	return ctr.Attach(ctx, req)
}

func (s sessions) Dial(ctx context.Context, id string, port int32) (net.Conn, error) {
	pod, err := s.m.Pod(id)
	if err != nil {
		return nil, err
	}
	return pod.Dial(ctx, port)
}
