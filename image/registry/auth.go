package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"strings"

	"github.com/containerd/containerd/v2/core/remotes/docker"
	"github.com/containerd/errdefs"
)

// Auth is a credential as CRI's AuthConfig gives it. The zero value is anonymous. No method prints it.
type Auth struct {
	Username, Password string
	// Auth is base64("username:password"), used when Username is empty.
	Auth string
	// ServerAddress is the registry the credential is for, a host or URL; empty means whatever host is asked.
	ServerAddress string
	// IdentityToken is an OAuth2 refresh token, RegistryToken a bearer token sent as it is.
	IdentityToken, RegistryToken string
}

// String keeps credentials out of logs and error texts.
func (a Auth) String() string { return "registry.Auth{...}" }

// GoString does the same for %#v.
func (a Auth) GoString() string { return a.String() }

// secret returns user and password; an identity token is a password without a user, as containerd's authorizer takes it.
func (a Auth) secret() (string, string, error) {
	switch {
	case a.Username != "":
		return a.Username, a.Password, nil
	case a.IdentityToken != "":
		return "", a.IdentityToken, nil
	case a.Auth != "":
		raw, err := base64.StdEncoding.DecodeString(a.Auth)
		if err != nil {
			return "", "", fmt.Errorf("auth is not base64: %w", fs.ErrInvalid)
		}
		user, password, ok := strings.Cut(strings.TrimRight(string(raw), "\x00"), ":")
		if !ok {
			return "", "", fmt.Errorf("auth is not user:password: %w", fs.ErrInvalid)
		}
		return user, password, nil
	}
	return "", "", nil
}

// matches says whether the credential is for a host.
func (a Auth) matches(host string) bool {
	if a.ServerAddress == "" {
		return true
	}
	server := a.ServerAddress
	scheme := "https"
	if strings.Contains(server, "://") {
		u, err := url.Parse(server)
		if err != nil {
			return false
		}
		scheme, server = u.Scheme, u.Host
	}
	server, _, _ = strings.Cut(server, "/")
	return canonical(server, scheme) == canonical(host, scheme)
}

// canonical gives one name to a host: lower case, without the scheme's own port; the default registry has several.
func canonical(host, scheme string) string {
	host = strings.ToLower(host)
	if scheme == "http" {
		host = strings.TrimSuffix(host, ":80")
	} else {
		host = strings.TrimSuffix(host, ":443")
	}
	switch host {
	case "docker.io", "index.docker.io", "registry-1.docker.io", "registry.docker.io":
		return "docker.io"
	}
	return host
}

// bearer is the docker.Authorizer of a registry token: it goes to one origin as it is, and a refusal is final.
type bearer struct {
	origin, token string
}

func (b bearer) Authorize(_ context.Context, req *http.Request) error {
	if req.URL.Host == b.origin {
		req.Header.Set("Authorization", "Bearer "+b.token)
	}
	return nil
}

func (b bearer) AddResponses(context.Context, []*http.Response) error {
	return fmt.Errorf("registry token refused: %w", errdefs.ErrNotImplemented)
}

// authorize gives each host the credential it may see. hosts are those the configuration names for the repository: a host
// that comes into play by a redirect is none of them.
func (a Auth) authorize(hosts []docker.RegistryHost) {
	if a.RegistryToken == "" {
		return
	}
	for i, h := range hosts {
		if a.matches(h.Host) {
			hosts[i].Authorizer = bearer{h.Host, a.RegistryToken}
		}
	}
}

var errRedirects = errors.New("more than 10 redirects")

// checkRedirect keeps credentials, cookies and configured headers at the origin they are meant for: scheme, host and port. (net/http
// compares host names only, and lets subdomains have them.)
func checkRedirect(req *http.Request, via []*http.Request) error {
	if len(via) >= 10 {
		return errRedirects
	}
	first := via[0].URL
	if req.URL.Scheme == first.Scheme && strings.EqualFold(req.URL.Host, first.Host) {
		return nil
	}
	for name := range req.Header {
		switch name {
		case "Accept", "Accept-Encoding", "Range", "User-Agent":
		default:
			delete(req.Header, name) // as it is spelt: configured names are not canonical
		}
	}
	return nil
}
