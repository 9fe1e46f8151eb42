package cri

import (
	"context"

	"google.golang.org/grpc"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox"
)

// stats answers for what containers and pods use.
type stats struct{ m *sandbox.Manager }

// ContainerStats reads one container.
func (s stats) ContainerStats(_ context.Context, req *rt.ContainerStatsRequest) (*rt.ContainerStatsResponse, error) {
	ctr, err := containers(s).find(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	st, err := ctr.Stats()
	if err != nil {
		return nil, err
	}
	return &rt.ContainerStatsResponse{Stats: st}, nil
}

// ListContainerStats reads the running containers that match the filter.
func (s stats) ListContainerStats(ctx context.Context, req *rt.ListContainerStatsRequest) (*rt.ListContainerStatsResponse, error) {
	return &rt.ListContainerStatsResponse{Stats: s.containers(ctx, req.GetFilter())}, nil
}

// StreamContainerStats is ListContainerStats in pieces.
func (s stats) StreamContainerStats(req *rt.StreamContainerStatsRequest, to grpc.ServerStreamingServer[rt.StreamContainerStatsResponse]) error {
	return chunks(s.containers(to.Context(), req.GetFilter()), chunkSize, func(items []*rt.ContainerStats) error {
		return to.Send(&rt.StreamContainerStatsResponse{ContainerStats: items})
	})
}

// containers reads what it can: a container that ends meanwhile must not cost the list.
func (s stats) containers(ctx context.Context, f *rt.ContainerStatsFilter) []*rt.ContainerStats {
	list := s.m.ListContainers(&rt.ContainerFilter{
		Id: f.GetId(), PodSandboxId: f.GetPodSandboxId(), LabelSelector: f.GetLabelSelector(),
		State: &rt.ContainerStateValue{State: rt.ContainerState_CONTAINER_RUNNING},
	})
	out := make([]*rt.ContainerStats, 0, len(list))
	for _, item := range list {
		if ctx.Err() != nil {
			break
		}
		ctr, err := s.m.Container(item.GetId())
		if err != nil {
			continue
		}
		if st, err := ctr.Stats(); err == nil {
			out = append(out, st)
		}
	}
	return out
}

// PodSandboxStats reads one pod.
func (s stats) PodSandboxStats(_ context.Context, req *rt.PodSandboxStatsRequest) (*rt.PodSandboxStatsResponse, error) {
	pod, err := pods(s).find(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	st, err := pod.Stats()
	if err != nil {
		return nil, err
	}
	return &rt.PodSandboxStatsResponse{Stats: st}, nil
}

// ListPodSandboxStats reads the ready pods that match the filter.
func (s stats) ListPodSandboxStats(ctx context.Context, req *rt.ListPodSandboxStatsRequest) (*rt.ListPodSandboxStatsResponse, error) {
	return &rt.ListPodSandboxStatsResponse{Stats: s.pods(ctx, req.GetFilter())}, nil
}

// StreamPodSandboxStats is ListPodSandboxStats in pieces.
func (s stats) StreamPodSandboxStats(req *rt.StreamPodSandboxStatsRequest, to grpc.ServerStreamingServer[rt.StreamPodSandboxStatsResponse]) error {
	return chunks(s.pods(to.Context(), req.GetFilter()), chunkSize, func(items []*rt.PodSandboxStats) error {
		return to.Send(&rt.StreamPodSandboxStatsResponse{PodSandboxStats: items})
	})
}

// pods reads what it can: a pod that ends meanwhile must not cost the list.
func (s stats) pods(ctx context.Context, f *rt.PodSandboxStatsFilter) []*rt.PodSandboxStats {
	list := s.m.ListPods(&rt.PodSandboxFilter{
		Id: f.GetId(), LabelSelector: f.GetLabelSelector(),
		State: &rt.PodSandboxStateValue{State: rt.PodSandboxState_SANDBOX_READY},
	})
	out := make([]*rt.PodSandboxStats, 0, len(list))
	for _, item := range list {
		if ctx.Err() != nil {
			break
		}
		pod, err := s.m.Pod(item.GetId())
		if err != nil {
			continue
		}
		if st, err := pod.Stats(); err == nil {
			out = append(out, st)
		}
	}
	return out
}

// ListMetricDescriptors says which metrics there are. It is the same for the life of the daemon.
func (s stats) ListMetricDescriptors(context.Context, *rt.ListMetricDescriptorsRequest) (*rt.ListMetricDescriptorsResponse, error) {
	return &rt.ListMetricDescriptorsResponse{Descriptors: s.m.MetricDescriptors()}, nil
}

// ListPodSandboxMetrics reads the metrics of all ready pods.
func (s stats) ListPodSandboxMetrics(ctx context.Context, _ *rt.ListPodSandboxMetricsRequest) (*rt.ListPodSandboxMetricsResponse, error) {
	return &rt.ListPodSandboxMetricsResponse{PodMetrics: s.m.Metrics(ctx)}, nil
}

// StreamPodSandboxMetrics is ListPodSandboxMetrics in pieces.
func (s stats) StreamPodSandboxMetrics(_ *rt.StreamPodSandboxMetricsRequest, to grpc.ServerStreamingServer[rt.StreamPodSandboxMetricsResponse]) error {
	return chunks(s.m.Metrics(to.Context()), chunkSize, func(items []*rt.PodSandboxMetrics) error {
		return to.Send(&rt.StreamPodSandboxMetricsResponse{PodSandboxMetrics: items})
	})
}
