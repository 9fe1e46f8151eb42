package image_test

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/berth-runtime/berth/image"
)

// TestAuth: each form of credential, Basic and token, right and wrong; a present image is no answer to a wrong one.
func TestAuth(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("p:1", nil, tarOf(reg("f", "x")))
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	var mode atomic.Value
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.URL.Path == "/token" {
			q.ParseForm()
			ok := q.Header.Get("Authorization") == basic || q.Form.Get("password") == "secret" && q.Form.Get("username") == "me" ||
				q.Form.Get("grant_type") == "refresh_token" && q.Form.Get("refresh_token") == "refresh"
			if !ok {
				w.WriteHeader(http.StatusUnauthorized)
				return true
			}
			io.WriteString(w, `{"token":"tok","access_token":"tok"}`)
			return true
		}
		have := q.Header.Get("Authorization")
		if mode.Load() == "basic" && have == basic || mode.Load() == "bearer" && (have == "Bearer tok" || have == "Bearer registry") {
			return false
		}
		if mode.Load() == "basic" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		} else {
			w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="s"`, r.URL))
		}
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	s := open(t)
	ref := r.host() + "/p:1"
	for _, tc := range []struct {
		mode string
		auth image.Auth
		ok   bool
	}{
		{"basic", image.Auth{}, false},
		{"basic", image.Auth{Username: "me", Password: "secret"}, true},
		{"basic", image.Auth{Username: "me", Password: "wrong"}, false},
		{"basic", image.Auth{Auth: base64.StdEncoding.EncodeToString([]byte("me:secret\x00\x00"))}, true},
		{"basic", image.Auth{Auth: "***"}, false},
		{"basic", image.Auth{Username: "me", Password: "secret", ServerAddress: r.host()}, true},
		{"basic", image.Auth{Username: "me", Password: "secret", ServerAddress: "http://" + r.host() + "/v1/"}, true},
		{"basic", image.Auth{Username: "me", Password: "secret", ServerAddress: "registry.example"}, false},
		{"bearer", image.Auth{}, false},
		{"bearer", image.Auth{Username: "me", Password: "secret"}, true},
		{"bearer", image.Auth{Auth: base64.StdEncoding.EncodeToString([]byte("me:secret"))}, true},
		{"bearer", image.Auth{IdentityToken: "refresh"}, true},
		{"bearer", image.Auth{IdentityToken: "stale"}, false},
		{"bearer", image.Auth{RegistryToken: "registry"}, true},
		{"bearer", image.Auth{RegistryToken: "registry", ServerAddress: r.host()}, true},
		{"bearer", image.Auth{RegistryToken: "registry", ServerAddress: "registry.example"}, false},
		{"bearer", image.Auth{RegistryToken: "other"}, false},
	} {
		mode.Store(tc.mode)
		_, err := s.Pull(context.Background(), image.PullRequest{Ref: ref, Auth: tc.auth})
		if (err == nil) != tc.ok {
			t.Errorf("%s %#v: %v", tc.mode, [...]string{tc.auth.Username, tc.auth.ServerAddress, tc.auth.RegistryToken, tc.auth.IdentityToken}, err)
		}
		if err != nil && tc.auth.Auth != "***" && !errors.Is(err, fs.ErrPermission) {
			t.Errorf("refusal is %v", err)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("the error tells the secret: %v", err)
		}
	}
}

// TestRedirect: a blob may be elsewhere; the credential does not go there.
func TestRedirect(t *testing.T) {
	t.Parallel()
	store := newRegistry(t)
	var leaked atomic.Value
	store.before = func(w http.ResponseWriter, q *http.Request) bool {
		for _, h := range []string{"Authorization", "Cookie", "X-Secret"} {
			if q.Header.Get(h) != "" {
				leaked.Store(h)
			}
		}
		if strings.Contains(q.URL.Path, "/again/") { // asks for what it must not get
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		return false
	}
	r := newRegistry(t)
	r.image("p:1", nil, tarOf(reg("f", "x")))
	r.image("again:1", nil, tarOf(reg("f", "y")))
	store.blobs = r.blobs
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Header.Get("Authorization") == "" {
			w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
			w.WriteHeader(http.StatusUnauthorized)
			return true
		}
		if strings.Contains(q.URL.Path, "/blobs/") {
			http.Redirect(w, q, store.URL+q.URL.Path, http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	dir := t.TempDir()
	mirror(t, dir, strings.Replace(r.host(), ":", "_", 1)+"_", fmt.Sprintf("server = %q\n[header]\n  x-secret = \"s\"\n", r.URL))
	s := open(t, func(o *image.Options) { o.RegistryDir = dir })
	auth := image.Auth{Username: "me", Password: "secret"}
	if _, err := s.Pull(context.Background(), image.PullRequest{Ref: r.host() + "/p:1", Auth: auth}); err != nil {
		t.Error(err)
	}
	if _, err := s.Pull(context.Background(), image.PullRequest{Ref: r.host() + "/again:1", Auth: auth}); err == nil {
		t.Error("pulled from a host that wanted credentials")
	}
	if h := leaked.Load(); h != nil {
		t.Errorf("%s went to another host", h)
	}
}
