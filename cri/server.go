package cri

import (
	"context"
	"encoding/json"
	"log/slog"
	"net"

	"google.golang.org/grpc"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
	"github.com/berth-runtime/berth/image"
	"github.com/berth-runtime/berth/netplugin"
	"github.com/berth-runtime/berth/sandbox"
)

// maxMessage is what the client library takes in one message, and what the server takes.
const maxMessage = 16 << 20

// Options are what a Server stands on. All of it stays the caller's to close.
type Options struct {
	Pods          *sandbox.Manager
	Images        *image.Store
	Network       *netplugin.Manager
	Version       string          // of the runtime, not empty
	SystemdCgroup bool            // told to kubelet by RuntimeConfig
	Config        json.RawMessage // the effective configuration, shown by verbose Status; has a member stateDir
	Stream        stream.Options
	Log           *slog.Logger
}

// Server answers RuntimeService and ImageService on one listener, and the streams they hand out on another.
type Server struct {
	grpc    *grpc.Server
	streams *stream.Server
	end     context.CancelFunc
}

// New makes the server and opens the streaming socket.
func New(opt Options) (*Server, error) {
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	opt.Stream.Log = opt.Log
	streams, err := stream.Listen(opt.Stream, sessions{opt.Pods})
	if err != nil {
		return nil, err
	}
	life, end := context.WithCancel(context.Background())
	w := watch{log: opt.Log, life: life}
	g := grpc.NewServer(
		grpc.MaxRecvMsgSize(maxMessage), grpc.MaxSendMsgSize(maxMessage),
		grpc.UnaryInterceptor(w.unary), grpc.StreamInterceptor(w.stream),
		grpc.ReadBufferSize(8<<10), grpc.WriteBufferSize(8<<10),
	)
	rt.RegisterRuntimeServiceServer(g, runtimeService{
		node:       node{pods: opt.Pods, network: opt.Network, version: opt.Version, systemd: opt.SystemdCgroup, config: opt.Config},
		pods:       pods{opt.Pods},
		containers: containers{opt.Pods},
		execs:      execs{opt.Pods, streams},
		stats:      stats{opt.Pods},
	})
	rt.RegisterImageServiceServer(g, imageService{images: images{opt.Images}})
	return &Server{grpc: g, streams: streams, end: end}, nil
}

// Serve answers until Close, and returns the first error of either listener.
func (s *Server) Serve(l net.Listener) error {
	fail := make(chan error, 2)
	// ends when Close closes the streaming socket.
	go func() { fail <- s.streams.Serve() }()
	// ends when Close stops the gRPC server.
	go func() { fail <- s.grpc.Serve(l) }()
	if err := <-fail; err != nil {
		return err
	}
	return <-fail
}

// Close stops taking requests, ends streams of events and sessions of exec, attach and port-forward, and waits for
// requests in flight until ctx ends; those still there are cut off.
func (s *Server) Close(ctx context.Context) error {
	s.end()
	stop := context.AfterFunc(ctx, s.grpc.Stop)
	defer stop()
	s.grpc.GracefulStop()
	return s.streams.Close(ctx)
}

// runtimeService is RuntimeService put together from its nouns. What none of them has is answered by unbuilt, which
// lies one level deeper and so never hides a method of theirs.
type runtimeService struct {
	node
	pods
	containers
	execs
	stats
	unbuilt
}

type unbuilt struct {
	rt.UnimplementedRuntimeServiceServer
}

// imageService is ImageService, in the same manner.
type imageService struct {
	images
	unbuiltImages
}

type unbuiltImages struct {
	rt.UnimplementedImageServiceServer
}
