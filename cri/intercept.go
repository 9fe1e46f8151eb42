package cri

import (
	"context"
	"fmt"
	"log/slog"
	"path"
	"runtime/debug"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// watch stands around every method: it turns errors into statuses and panics into errors, and logs one line.
type watch struct {
	log  *slog.Logger
	life context.Context // ends when the server closes; streams end with it
}

func (w watch) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (resp any, err error) {
	began := time.Now()
	defer func() {
		if p := recover(); p != nil {
			resp, err = nil, w.panicked(info.FullMethod, p)
		}
		w.line(ctx, info.FullMethod, began, err, append(names(req), names(resp)...))
	}()
	resp, err = handler(ctx, req)
	if err != nil {
		return nil, answer(ctx, err)
	}
	return resp, nil
}

func (w watch) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	began := time.Now()
	ctx, cancel := context.WithCancel(ss.Context())
	defer cancel()
	stop := context.AfterFunc(w.life, cancel)
	defer stop()
	defer func() {
		if p := recover(); p != nil {
			err = w.panicked(info.FullMethod, p)
		}
		w.line(ctx, info.FullMethod, began, err, nil)
	}()
	return answer(ctx, handler(srv, watchedStream{ss, ctx}))
}

// watchedStream has a context that also ends with the server: a stream of events never ends by itself.
type watchedStream struct {
	grpc.ServerStream
	ctx context.Context
}

func (s watchedStream) Context() context.Context { return s.ctx }

// panicked logs where it happened and makes the answer, which says no more than that it did.
func (w watch) panicked(method string, p any) error {
	w.log.Error("panic", "rpc", path.Base(method), "panic", fmt.Sprint(p), "stack", string(debug.Stack()))
	return status.Errorf(codes.Internal, "%s: internal error, see the log", path.Base(method))
}

// line logs the call. Reads that succeed come every second from kubelet, and ExecSync from its probes; they are logged
// at level debug, whatever fails at level info.
func (w watch) line(ctx context.Context, method string, began time.Time, err error, attrs []slog.Attr) {
	rpc := path.Base(method)
	level := slog.LevelInfo
	if err == nil && (reads(rpc) || rpc == "ExecSync") {
		level = slog.LevelDebug
	}
	if !w.log.Enabled(ctx, level) {
		return
	}
	attrs = append(attrs, slog.Duration("duration", time.Since(began).Round(time.Microsecond)), slog.String("code", status.Code(err).String()))
	if err != nil {
		attrs = append(attrs, slog.String("err", status.Convert(err).Message()))
	}
	w.log.LogAttrs(ctx, level, rpc, attrs...)
}

// reads reports whether the RPC changes nothing.
func reads(rpc string) bool {
	switch rpc {
	case "Version", "Status", "RuntimeConfig", "PodSandboxStatus", "ContainerStatus", "ImageStatus", "ImageFsInfo",
		"ListPodSandbox", "ListContainers", "ListImages", "StreamPodSandboxes", "StreamContainers", "StreamImages",
		"PodSandboxStats", "ListPodSandboxStats", "StreamPodSandboxStats",
		"ContainerStats", "ListContainerStats", "StreamContainerStats",
		"ListMetricDescriptors", "ListPodSandboxMetrics", "StreamPodSandboxMetrics", "GetContainerEvents":
		return true
	}
	return false
}

// names picks out of a request or answer what says which object it is about, and nothing else: the rest may be secret.
func names(msg any) []slog.Attr {
	var out []slog.Attr
	if m, ok := msg.(interface{ GetPodSandboxId() string }); ok {
		out = append(out, slog.String("pod", m.GetPodSandboxId()))
	}
	if m, ok := msg.(interface{ GetContainerId() string }); ok {
		out = append(out, slog.String("container", m.GetContainerId()))
	}
	switch m := msg.(type) {
	case *rt.RunPodSandboxRequest:
		md := m.GetConfig().GetMetadata()
		out = append(out, slog.String("namespace", md.GetNamespace()), slog.String("name", md.GetName()),
			slog.String("uid", md.GetUid()), slog.Uint64("attempt", uint64(md.GetAttempt())))
		if h := m.GetRuntimeHandler(); h != "" {
			out = append(out, slog.String("handler", h))
		}
	case *rt.CreateContainerRequest:
		md := m.GetConfig().GetMetadata()
		out = append(out, slog.String("name", md.GetName()), slog.Uint64("attempt", uint64(md.GetAttempt())),
			slog.String("image", m.GetConfig().GetImage().GetImage()))
	case interface{ GetImage() *rt.ImageSpec }:
		out = append(out, slog.String("image", m.GetImage().GetImage()))
	case *rt.PullImageResponse:
		out = append(out, slog.String("id", m.GetImageRef()))
	}
	return out
}
