package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/remotes"
	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/containerd/v2/core/remotes/docker/config"
	remoteerrors "github.com/containerd/containerd/v2/core/remotes/errors"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/pelletier/go-toml/v2"
	"github.com/sirupsen/logrus"
)

// ErrUnavailable marks errors that say something about the way to the registry and not about the image: no
// connection, a timeout, a server error.
var ErrUnavailable = errors.New("registry unavailable")

// Repository is one repository as seen with one credential.
type Repository struct {
	ref     string
	auth    Auth
	dir     string
	resolve remotes.Resolver
	fetch   remotes.Fetcher

	mu         sync.Mutex
	transports []*http.Transport
	found      []docker.RegistryHost // what hosts answered: resolving and fetching share connections and tokens
}

// Open prepares to read ref, a full name "host/path:tag" or "host/path@digest". dir holds hosts.toml files in containerd's
// layout; "" and missing files mean the registry itself: HTTPS, plain HTTP for loopback hosts. Nothing is
// sent yet. Close must be called.
func Open(ctx context.Context, ref, dir string, auth Auth) (*Repository, error) {
	if _, _, err := auth.secret(); err != nil {
		return nil, err
	}
	r := &Repository{ref: ref, auth: auth, dir: dir}
	r.resolve = docker.NewResolver(docker.ResolverOptions{
		Hosts:   r.hosts,
		Headers: http.Header{"User-Agent": []string{"berth"}},
	})
	f, err := r.resolve.Fetcher(quiet(ctx), ref)
	if err != nil {
		return nil, err
	}
	r.fetch = f
	return r, nil
}

// Close drops idle connections.
func (r *Repository) Close() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.transports {
		t.CloseIdleConnections()
	}
}

// quiet gives the library a logger that says nothing: what is worth telling is in the errors.
func quiet(ctx context.Context) context.Context {
	l := logrus.New()
	l.SetOutput(io.Discard)
	l.SetLevel(logrus.PanicLevel)
	return log.WithLogger(ctx, logrus.NewEntry(l))
}

// hosts is asked by the library for the hosts that serve the one namespace of the reference, more than once.
func (r *Repository) hosts(namespace string) ([]docker.RegistryHost, error) {
	if r.found != nil {
		return r.found, nil
	}
	hosts, err := r.configure(namespace)
	if err == nil {
		r.found = hosts
	}
	return hosts, err
}

// configure reads hosts.toml and decides who may see the credential.
func (r *Repository) configure(namespace string) ([]docker.RegistryHost, error) {
	opts := config.HostOptions{UpdateClient: r.client}
	if r.dir != "" {
		find := config.HostDirFromRoot(r.dir)
		opts.HostDir = func(host string) (string, error) {
			d, err := find(host)
			if err == nil {
				err = checkHostsFile(d)
			}
			return d, err
		}
	}
	allowed := map[string]bool{}
	opts.Credentials = func(host string) (string, string, error) {
		if !allowed[host] || !r.auth.matches(host) {
			return "", "", nil
		}
		return r.auth.secret()
	}
	all, err := config.ConfigureHosts(quiet(context.Background()), opts)(namespace)
	if err != nil {
		return nil, fmt.Errorf("registry configuration of %s: %w", namespace, err)
	}
	hosts := all[:0]
	for _, h := range all {
		if h.Capabilities.Has(docker.HostCapabilityPull) { // the fetcher would ask the others as well
			hosts = append(hosts, h)
			allowed[h.Host] = true
		}
	}
	r.auth.authorize(hosts)
	return hosts, nil
}

// checkHostsFile refuses a hosts.toml that is not TOML or names an unknown capability. The library would go on without
// it, past the mirror the administrator meant.
func checkHostsFile(dir string) error {
	name := filepath.Join(dir, "hosts.toml")
	b, err := os.ReadFile(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	type host struct {
		Capabilities []string `toml:"capabilities"`
	}
	var file struct {
		host
		Host map[string]host `toml:"host"`
	}
	if err := toml.Unmarshal(b, &file); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	all := file.Capabilities
	for _, h := range file.Host {
		all = append(all, h.Capabilities...)
	}
	for _, c := range all {
		switch strings.ToLower(c) {
		case "pull", "resolve", "push", "referrers":
		default:
			return fmt.Errorf("%s: unknown capability %q: %w", name, c, fs.ErrInvalid)
		}
	}
	return nil
}

// client is asked to change each client the library makes.
func (r *Repository) client(c *http.Client) error {
	c.CheckRedirect = checkRedirect
	// The library may wrap the transport later on, out of reach of CloseIdleConnections.
	if t, ok := c.Transport.(*http.Transport); ok {
		t.ResponseHeaderTimeout = time.Minute
		r.mu.Lock()
		r.transports = append(r.transports, t)
		r.mu.Unlock()
	}
	return nil
}

// Resolve asks the registry what the reference means now. Connection and server errors are tried again a few times.
func (r *Repository) Resolve(ctx context.Context) (ocispec.Descriptor, error) {
	var desc ocispec.Descriptor
	err := again(ctx, func() error {
		_, d, err := r.resolve.Resolve(quiet(ctx), r.ref)
		desc = d
		return err
	})
	if err != nil {
		return desc, fmt.Errorf("resolve: %w", classify(ctx, err))
	}
	if err := desc.Digest.Validate(); err != nil {
		return desc, fmt.Errorf("resolve: digest %q: %w", desc.Digest, err)
	}
	return desc, nil
}

// again calls f up to three times while the registry seems to be away.
func again(ctx context.Context, f func() error) error {
	for wait := 200 * time.Millisecond; ; wait *= 3 {
		err := f()
		if err == nil || ctx.Err() != nil || !unavailable(err) || wait > time.Second {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// unavailable says whether an error is about the way to the registry.
func unavailable(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode >= 500 || status.StatusCode == http.StatusTooManyRequests
	}
	var op *net.OpError
	var dns *net.DNSError
	var timeout net.Error
	return errors.As(err, &op) || errors.As(err, &dns) || errors.As(err, &timeout) && timeout.Timeout() ||
		errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF)
}

// classify gives an error of the library the classes of the standard library, and the context's own error where the context
// ended.
func classify(ctx context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil:
		return ctx.Err()
	case errdefs.IsNotFound(err):
		return fmt.Errorf("%s: %w", strings.TrimSuffix(err.Error(), ": not found"), fs.ErrNotExist)
	case refused(err):
		return fmt.Errorf("%w: %w", fs.ErrPermission, err)
	case unavailable(err):
		return fmt.Errorf("%w: %w", ErrUnavailable, err)
	}
	return err
}

// refused says whether the registry wants another credential.
func refused(err error) bool {
	var status remoteerrors.ErrUnexpectedStatus
	if errors.As(err, &status) {
		return status.StatusCode == http.StatusUnauthorized || status.StatusCode == http.StatusForbidden
	}
	return errors.Is(err, docker.ErrInvalidAuthorization)
}
