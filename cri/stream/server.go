package stream

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/gorilla/websocket"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"

	"github.com/berth-runtime/berth/sandbox"
)

// Runtime does what the streams are for. Its methods return when ctx ends, that is when the client is gone.
type Runtime interface {
	Exec(ctx context.Context, container string, req sandbox.ExecRequest) (int, error)
	Attach(ctx context.Context, container string, req sandbox.AttachRequest) error
	Dial(ctx context.Context, pod string, port int32) (net.Conn, error)
}

// Options configure a Server. Zero durations take the defaults kubelet expects.
type Options struct {
	Addr            string        // loopback address and port, "127.0.0.1:0" if empty; the traffic is not encrypted
	IdleTimeout     time.Duration // a session without traffic ends after this; 0 = 4 h
	CreationTimeout time.Duration // the client has to open its streams within this; 0 = 30 s
	Log             *slog.Logger
}

// Server hands out URLs and serves the connections that arrive there.
type Server struct {
	opt    Options
	rt     Runtime
	tokens tokens
	ln     net.Listener
	http   *http.Server
	life   context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup // sessions
}

// Listen opens the server's socket, so that URLs can be handed out; Serve answers on it.
func Listen(opt Options, runtime Runtime) (*Server, error) {
	if opt.Addr == "" {
		opt.Addr = "127.0.0.1:0"
	}
	if err := CheckAddr(opt.Addr); err != nil {
		return nil, err
	}
	if opt.IdleTimeout == 0 {
		opt.IdleTimeout = 4 * time.Hour
	}
	if opt.CreationTimeout == 0 {
		opt.CreationTimeout = remotecommand.DefaultStreamCreationTimeout
	}
	if opt.Log == nil {
		opt.Log = slog.New(slog.DiscardHandler)
	}
	ln, err := net.Listen("tcp", opt.Addr)
	if err != nil {
		return nil, err
	}
	s := &Server{opt: opt, rt: runtime, ln: ln, tokens: tokens{now: time.Now, m: make(map[string]pending)}}
	s.life, s.end = context.WithCancel(context.Background())
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{token}", s.handle)
	mux.HandleFunc("/attach/{token}", s.handle)
	mux.HandleFunc("/portforward/{token}", s.handle)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug),
	}
	return s, nil
}

// CheckAddr refuses an address that others than this host can reach: the streams carry no encryption, and whoever
// knows a token is in the container.
func CheckAddr(addr string) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("streaming address %q: %w: want host:port", addr, fs.ErrInvalid)
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return fmt.Errorf("streaming address %q: %w: not a loopback address", addr, fs.ErrInvalid)
	}
	return nil
}

// Serve answers until Close.
func (s *Server) Serve() error {
	if err := s.http.Serve(s.ln); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// Close ends the server and every session, and waits until they have let go or ctx ends.
func (s *Server) Close(ctx context.Context) error {
	err := s.http.Close()
	s.ln.Close() // in case Serve was never called
	s.end()
	over := make(chan struct{})
	// ends when the last session has.
	go func() {
		s.wg.Wait()
		close(over)
	}()
	select {
	case <-over:
		return err
	case <-ctx.Done():
		return errors.Join(err, fmt.Errorf("end streaming sessions: %w", ctx.Err()))
	}
}

// URL keeps a request (*rt.ExecRequest, *rt.AttachRequest or *rt.PortForwardRequest) and returns where the client
// finds it for the next minute.
func (s *Server) URL(request any) (string, error) {
	kind := ""
	switch request.(type) {
	case *rt.ExecRequest:
		kind = "exec"
	case *rt.AttachRequest:
		kind = "attach"
	case *rt.PortForwardRequest:
		kind = "portforward"
	default:
		return "", fmt.Errorf("stream %T: %w", request, errors.ErrUnsupported)
	}
	token, err := s.tokens.add(request)
	if err != nil {
		return "", err
	}
	return "http://" + s.ln.Addr().String() + "/" + kind + "/" + token, nil
}

// handle serves one connection: the request behind the token decides what it is, the path is only for people.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	request := s.tokens.take(r.PathValue("token"))
	if request == nil || (r.Method != http.MethodGet && r.Method != http.MethodPost) {
		http.NotFound(w, r)
		return
	}
	s.wg.Add(1)
	defer s.wg.Done()
	ctx, gone := context.WithCancel(s.life)
	defer gone()
	ww := &watchedWriter{ResponseWriter: w, ctx: ctx, gone: gone}
	r = r.WithContext(ctx)
	began := time.Now()
	switch req := request.(type) {
	case *rt.ExecRequest:
		s.remote(ww, r, session{ctx: ctx, rt: s.rt, id: req.ContainerId, cmd: req.Cmd, exec: true,
			opts: remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}})
		s.opt.Log.Debug("exec session over", "container", req.ContainerId, "duration", time.Since(began))
	case *rt.AttachRequest:
		s.remote(ww, r, session{ctx: ctx, rt: s.rt, id: req.ContainerId,
			opts: remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}})
		s.opt.Log.Debug("attach session over", "container", req.ContainerId, "duration", time.Since(began))
	case *rt.PortForwardRequest:
		s.forward(ww, r, req)
		s.opt.Log.Debug("port-forward session over", "pod", req.PodSandboxId, "duration", time.Since(began))
	}
}

// remote serves exec and attach in whichever protocol the client asks for.
func (s *Server) remote(w http.ResponseWriter, r *http.Request, x session) {
	switch {
	case offers(r, remotecommand.StreamProtocolV5Name):
		s.serveV5(w, r, x)
	case x.exec:
		remotecommand.ServeExec(w, r, x, "", "", x.id, x.cmd, &x.opts,
			s.opt.IdleTimeout, s.opt.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	default:
		remotecommand.ServeAttach(w, r, x, "", "", x.id, &x.opts,
			s.opt.IdleTimeout, s.opt.CreationTimeout, remotecommand.SupportedStreamingProtocols)
	}
}

// forward serves port-forward in whichever protocol the client asks for.
func (s *Server) forward(w http.ResponseWriter, r *http.Request, req *rt.PortForwardRequest) {
	if offers(r, portforward.WebsocketsSPDYTunnelingPortForwardV1) {
		var err error
		if w, r, err = s.tunnel(w, r); err != nil {
			s.opt.Log.Debug("port-forward tunnel", "pod", req.PodSandboxId, "err", err)
			return
		}
	}
	x := session{ctx: r.Context(), rt: s.rt, id: req.PodSandboxId}
	portforward.ServePortForward(w, r, x, x.id, "", &portforward.V4Options{Ports: req.Port},
		s.opt.IdleTimeout, s.opt.CreationTimeout, portforward.SupportedProtocols)
}

// offers reports whether the client wants a WebSocket and this sub-protocol is the first it names of those known
// here: clients list what they like best first.
func offers(r *http.Request, protocol string) bool {
	if !websocket.IsWebSocketUpgrade(r) {
		return false
	}
	for _, p := range websocket.Subprotocols(r) {
		p = strings.TrimSpace(p)
		if p == protocol {
			return true
		}
		if strings.HasSuffix(p, "channel.k8s.io") {
			return false
		}
	}
	return false
}
