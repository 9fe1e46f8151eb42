package cri

import (
	"context"
	"io/fs"

	"google.golang.org/grpc"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox"
)

// containers answers for containers.
type containers struct{ m *sandbox.Manager }

// CreateContainer makes a container in a pod. The request's copy of the pod's configuration is not used: what counts
// for the pod is what it was run with.
func (c containers) CreateContainer(ctx context.Context, req *rt.CreateContainerRequest) (*rt.CreateContainerResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	switch cfg := req.GetConfig(); {
	case cfg == nil:
		return nil, missing("config")
	case cfg.GetMetadata() == nil:
		return nil, missing("config.metadata")
	case cfg.GetImage().GetImage() == "":
		return nil, missing("config.image.image")
	}
	pod, err := c.m.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	id, err := pod.Create(ctx, req.GetConfig())
	if err != nil {
		return nil, err
	}
	return &rt.CreateContainerResponse{ContainerId: id}, nil
}

// StartContainer returns when the container's command has been executed.
func (c containers) StartContainer(ctx context.Context, req *rt.StartContainerRequest) (*rt.StartContainerResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := ctr.Start(ctx); err != nil {
		return nil, err
	}
	return &rt.StartContainerResponse{}, nil
}

// StopContainer returns when the container has ended. One that does not exist is stopped.
func (c containers) StopContainer(ctx context.Context, req *rt.StopContainerRequest) (*rt.StopContainerResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err == nil {
		err = ctr.Stop(ctx, seconds(req.GetTimeout()))
	}
	if err != nil && !is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &rt.StopContainerResponse{}, nil
}

// RemoveContainer removes the container, killing it where needed. One that does not exist is removed.
func (c containers) RemoveContainer(ctx context.Context, req *rt.RemoveContainerRequest) (*rt.RemoveContainerResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err == nil {
		err = ctr.Remove(ctx)
	}
	if err != nil && !is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &rt.RemoveContainerResponse{}, nil
}

// ContainerStatus answers NotFound for a container that does not exist: kubelet forgets it then.
func (c containers) ContainerStatus(_ context.Context, req *rt.ContainerStatusRequest) (*rt.ContainerStatusResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	return ctr.Status(req.GetVerbose())
}

// ListContainers lists the containers that match the filter.
func (c containers) ListContainers(_ context.Context, req *rt.ListContainersRequest) (*rt.ListContainersResponse, error) {
	return &rt.ListContainersResponse{Containers: c.m.ListContainers(req.GetFilter())}, nil
}

// StreamContainers is ListContainers in pieces.
func (c containers) StreamContainers(req *rt.StreamContainersRequest, to grpc.ServerStreamingServer[rt.StreamContainersResponse]) error {
	return chunks(c.m.ListContainers(req.GetFilter()), chunkSize, func(items []*rt.Container) error {
		return to.Send(&rt.StreamContainersResponse{Containers: items})
	})
}

// UpdateContainerResources changes limits of a created or running container.
func (c containers) UpdateContainerResources(ctx context.Context, req *rt.UpdateContainerResourcesRequest) (*rt.UpdateContainerResourcesResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetLinux() == nil {
		return nil, missing("linux")
	}
	if err := ctr.Update(ctx, req.GetLinux()); err != nil {
		return nil, err
	}
	return &rt.UpdateContainerResourcesResponse{}, nil
}

// ReopenContainerLog is called after kubelet has renamed the log file; the file is there again when it returns.
func (c containers) ReopenContainerLog(ctx context.Context, req *rt.ReopenContainerLogRequest) (*rt.ReopenContainerLogResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if err := ctr.ReopenLog(ctx); err != nil {
		return nil, err
	}
	return &rt.ReopenContainerLogResponse{}, nil
}

// CheckpointContainer writes an archive of a running container, which goes on.
func (c containers) CheckpointContainer(ctx context.Context, req *rt.CheckpointContainerRequest) (*rt.CheckpointContainerResponse, error) {
	ctr, err := c.find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetLocation() == "" {
		return nil, missing("location")
	}
	if err := ctr.Checkpoint(ctx, req.GetLocation(), seconds(req.GetTimeout())); err != nil {
		return nil, err
	}
	return &rt.CheckpointContainerResponse{}, nil
}

// GetContainerEvents sends what happens to containers and pods from now on, until the client goes. The headers are sent
// at once: they tell a client from when on it misses nothing.
func (c containers) GetContainerEvents(_ *rt.GetEventsRequest, to grpc.ServerStreamingServer[rt.ContainerEventResponse]) error {
	events := c.m.Events(to.Context())
	if err := to.SendHeader(nil); err != nil {
		return err
	}
	for event := range events {
		if err := to.Send(event); err != nil {
			return err
		}
	}
	return to.Context().Err()
}

func (c containers) find(id string) (*sandbox.Container, error) {
	if err := checkID("container_id", id); err != nil {
		return nil, err
	}
	return c.m.Container(id)
}
