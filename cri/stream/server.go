package stream

import (
	"context"
	"crypto/tls"
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

// Options configure a Server. Zeros take the defaults, which are what kubelet expects.
type Options struct {
	Addr             string        // address and port, "127.0.0.1:0" if empty; one that others can reach needs TLS
	TLS              bool          // encrypt; without files with a certificate of our own
	CertFile         string        // PEM, read again when it changes
	KeyFile          string        // likewise
	IdleTimeout      time.Duration // a session without traffic ends after this; 4 h
	CreationTimeout  time.Duration // the client has to open its streams within this; 30 s
	HandshakeTimeout time.Duration // TLS handshake and request header each have to come within this; 10 s
	MaxRequests      int           // URLs handed out and not used; 1000
	MaxSessions      int           // sessions at a time; 1000
	Log              *slog.Logger
}

const (
	// maxWaiting is how many connections may be there without a session: in a handshake or sending a header.
	maxWaiting = 256
	// maxHeader bounds a request's line and header: kubelet passes on what its own client sent, cookies included.
	maxHeader = 64 << 10
	// maxForwards is how many connections one port-forward session may hold open.
	maxForwards = 1000
)

// complete fills in the defaults.
func (o *Options) complete() {
	set := func(d *time.Duration, def time.Duration) {
		if *d == 0 {
			*d = def
		}
	}
	set(&o.IdleTimeout, 4*time.Hour)
	set(&o.CreationTimeout, remotecommand.DefaultStreamCreationTimeout)
	set(&o.HandshakeTimeout, 10*time.Second)
	if o.Addr == "" {
		o.Addr = "127.0.0.1:0"
	}
	if o.MaxRequests == 0 {
		o.MaxRequests = 1000
	}
	if o.MaxSessions == 0 {
		o.MaxSessions = 1000
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
}

// Server hands out URLs and serves the connections that arrive there.
type Server struct {
	opt    Options
	rt     Runtime
	tokens tokens
	places places
	ln     net.Listener
	base   string // of URLs
	http   *http.Server
	life   context.Context
	end    context.CancelFunc
	wg     sync.WaitGroup // sessions
}

// Listen opens the server's socket, so that URLs can be handed out; Serve answers on it.
func Listen(opt Options, runtime Runtime) (*Server, error) {
	opt.complete()
	if err := CheckAddr(opt.Addr, opt.TLS); err != nil {
		return nil, err
	}
	s := &Server{opt: opt, rt: runtime, places: places{max: opt.MaxSessions},
		tokens: tokens{now: time.Now, max: opt.MaxRequests, m: make(map[string]pending)}}
	if err := s.listen(); err != nil {
		return nil, err
	}
	s.life, s.end = context.WithCancel(context.Background())
	waiting := &waiting{max: maxWaiting}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec/{token}", s.handle)
	mux.HandleFunc("/attach/{token}", s.handle)
	mux.HandleFunc("/portforward/{token}", s.handle)
	s.http = &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: opt.HandshakeTimeout, // and that of the TLS handshake
		MaxHeaderBytes:    maxHeader,
		ConnState:         waiting.state,
		ErrorLog:          slog.NewLogLogger(opt.Log.Handler(), slog.LevelDebug),
	}
	s.http.SetKeepAlivesEnabled(false) // a connection has one request
	return s, nil
}

// listen opens the socket and says what URLs begin with.
func (s *Server) listen() error {
	var conf *tls.Config
	scheme := "http://"
	if s.opt.TLS {
		host, _, _ := net.SplitHostPort(s.opt.Addr)
		own := &certificate{cert: s.opt.CertFile, key: s.opt.KeyFile, host: host, log: s.opt.Log, now: time.Now}
		var err error
		if conf, err = own.config(); err != nil {
			return err
		}
		scheme = "https://"
	} else if s.opt.CertFile != "" || s.opt.KeyFile != "" {
		return fmt.Errorf("streaming certificate: %w: it is given, but TLS is off", fs.ErrInvalid)
	}
	var err error
	if s.ln, err = net.Listen("tcp", s.opt.Addr); err != nil {
		return err
	}
	s.base = scheme + s.ln.Addr().String()
	if conf != nil {
		s.ln = tls.NewListener(s.ln, conf)
	}
	return nil
}

// CheckAddr refuses an address that others than this host can reach without encryption, for whoever knows a token is in
// the container, and one that says no client where to connect to.
func CheckAddr(addr string, encrypted bool) error {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return fmt.Errorf("streaming address %q: %w: want host:port", addr, fs.ErrInvalid)
	}
	ip := net.ParseIP(host)
	switch {
	case host == "localhost", ip != nil && ip.IsLoopback():
		return nil
	case ip == nil || ip.IsUnspecified():
		return fmt.Errorf("streaming address %q: %w: clients are sent there, so it must be one address of this host", addr, fs.ErrInvalid)
	case !encrypted:
		return fmt.Errorf("streaming address %q: %w: not a loopback address, and TLS is off", addr, fs.ErrInvalid)
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
	if s.places.full() {
		return "", s.tooMany()
	}
	token, err := s.tokens.add(request)
	if err != nil {
		return "", err
	}
	return s.base + "/" + kind + "/" + token, nil
}

// tooMany says that there is no place for a session.
func (s *Server) tooMany() error {
	return fmt.Errorf("%w: %d sessions are open, as many as may be", ErrBusy, s.opt.MaxSessions)
}

// admit takes the request of the token and a place for its session. Without one the token stays good, for another try.
func (s *Server) admit(w http.ResponseWriter, r *http.Request) any {
	if r.Method != http.MethodGet && r.Method != http.MethodPost {
		http.NotFound(w, r)
		return nil
	}
	token := r.PathValue("token")
	p, ok := s.tokens.take(token)
	if !ok {
		http.NotFound(w, r)
		return nil
	}
	if !s.places.take() {
		s.tokens.put(token, p)
		http.Error(w, s.tooMany().Error(), http.StatusServiceUnavailable)
		return nil
	}
	return p.request
}

// handle serves one connection: the request behind the token decides what it is, the path is only for people.
func (s *Server) handle(w http.ResponseWriter, r *http.Request) {
	request := s.admit(w, r)
	if request == nil {
		return
	}
	defer s.places.give()
	s.wg.Add(1)
	defer s.wg.Done()
	ctx, gone := context.WithCancel(s.life)
	defer gone()
	ww := &watchedWriter{ResponseWriter: w, ctx: ctx, gone: gone}
	r = r.WithContext(ctx)
	began := time.Now()
	switch req := request.(type) {
	case *rt.ExecRequest:
		s.remote(ww, r, session{ctx: ctx, rt: s.rt, id: req.ContainerId, cmd: req.Cmd, exec: true, over: ww.over,
			opts: remotecommand.Options{Stdin: req.Stdin, Stdout: req.Stdout, Stderr: req.Stderr, TTY: req.Tty}})
		s.opt.Log.Debug("exec session over", "container", req.ContainerId, "duration", time.Since(began))
	case *rt.AttachRequest:
		s.remote(ww, r, session{ctx: ctx, rt: s.rt, id: req.ContainerId, over: ww.over,
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
	x := session{ctx: r.Context(), rt: s.rt, id: req.PodSandboxId, forwards: &places{max: maxForwards}}
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
