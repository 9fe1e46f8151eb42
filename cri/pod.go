package cri

import (
	"context"

	"google.golang.org/grpc"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"io/fs"

	"github.com/berth-runtime/berth/sandbox"
)

// pods answers for pod sandboxes.
type pods struct{ m *sandbox.Manager }

// RunPodSandbox makes a pod, or joins the call that is making it.
func (p pods) RunPodSandbox(ctx context.Context, req *rt.RunPodSandboxRequest) (*rt.RunPodSandboxResponse, error) {
	if req.GetConfig() == nil {
		return nil, missing("config")
	}
	if req.GetConfig().GetMetadata() == nil {
		return nil, missing("config.metadata")
	}
	id, err := p.m.Run(ctx, req.GetConfig(), req.GetRuntimeHandler())
	if err != nil {
		return nil, err
	}
	return &rt.RunPodSandboxResponse{PodSandboxId: id}, nil
}

// StopPodSandbox kills what runs in the pod and gives its network back. A pod that does not exist is stopped.
func (p pods) StopPodSandbox(ctx context.Context, req *rt.StopPodSandboxRequest) (*rt.StopPodSandboxResponse, error) {
	pod, err := p.find(req.GetPodSandboxId())
	if err == nil {
		err = pod.Stop(ctx)
	}
	if err != nil && !is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &rt.StopPodSandboxResponse{}, nil
}

// RemovePodSandbox removes the pod and all it has. A pod that does not exist is removed.
func (p pods) RemovePodSandbox(ctx context.Context, req *rt.RemovePodSandboxRequest) (*rt.RemovePodSandboxResponse, error) {
	pod, err := p.find(req.GetPodSandboxId())
	if err == nil {
		err = pod.Remove(ctx)
	}
	if err != nil && !is(err, fs.ErrNotExist) {
		return nil, err
	}
	return &rt.RemovePodSandboxResponse{}, nil
}

// PodSandboxStatus answers NotFound for a pod that does not exist: kubelet forgets it then.
func (p pods) PodSandboxStatus(_ context.Context, req *rt.PodSandboxStatusRequest) (*rt.PodSandboxStatusResponse, error) {
	pod, err := p.find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	return pod.Status(req.GetVerbose())
}

// ListPodSandbox lists the pods that match the filter.
func (p pods) ListPodSandbox(_ context.Context, req *rt.ListPodSandboxRequest) (*rt.ListPodSandboxResponse, error) {
	return &rt.ListPodSandboxResponse{Items: p.m.ListPods(req.GetFilter())}, nil
}

// StreamPodSandboxes is ListPodSandbox in pieces.
func (p pods) StreamPodSandboxes(req *rt.StreamPodSandboxesRequest, to grpc.ServerStreamingServer[rt.StreamPodSandboxesResponse]) error {
	return chunks(p.m.ListPods(req.GetFilter()), chunkSize, func(items []*rt.PodSandbox) error {
		return to.Send(&rt.StreamPodSandboxesResponse{PodSandboxes: items})
	})
}

// UpdatePodSandboxResources keeps the pod's resources and overhead; the pod's cgroup is kubelet's to set.
func (p pods) UpdatePodSandboxResources(ctx context.Context, req *rt.UpdatePodSandboxResourcesRequest) (*rt.UpdatePodSandboxResourcesResponse, error) {
	pod, err := p.find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := pod.Update(ctx, req.GetOverhead(), req.GetResources()); err != nil {
		return nil, err
	}
	return &rt.UpdatePodSandboxResourcesResponse{}, nil
}

func (p pods) find(id string) (*sandbox.Pod, error) {
	if err := checkID("pod_sandbox_id", id); err != nil {
		return nil, err
	}
	return p.m.Pod(id)
}
