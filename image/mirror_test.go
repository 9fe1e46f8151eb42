package image_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/berth-runtime/berth/image"
)

func withDir(dir string) func(*image.Options) {
	return func(o *image.Options) { o.RegistryDir = dir }
}

// TestMirrors: the hosts of hosts.toml in order, by what they can do; _default for the rest.
func TestMirrors(t *testing.T) {
	t.Parallel()
	full, blobs, empty, resolver := newRegistry(t), newRegistry(t), newRegistry(t), newRegistry(t)
	full.image("a:1", nil, tarOf(reg("f", "a")))
	full.image("team/b:1", nil, tarOf(reg("f", "b")))
	blobs.blobs, blobs.types = full.blobs, full.types // has content, knows no tags
	dir := t.TempDir()
	both := "  capabilities = [\"pull\", \"resolve\"]\n"
	mirror(t, dir, "_default", fmt.Sprintf("[host.%q]\n%s", full.URL, both))
	mirror(t, dir, "first.example", fmt.Sprintf("server = %q\n[host.%q]\n%s[host.%q]\n%s", "http://nowhere.invalid", empty.URL, both, full.URL, both))
	mirror(t, dir, "pull-only.example", fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\"]\n", full.URL, blobs.URL))
	mirror(t, dir, "no-pull.example", fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"resolve\"]\n", full.URL, resolver.URL))
	mirror(t, dir, "path.example", fmt.Sprintf("server = %q\noverride_path = true\n", full.URL+"/v2/team"))
	mirror(t, dir, "port.example_5000_", fmt.Sprintf("server = %q\n", full.URL))
	mirror(t, dir, "dead.example", fmt.Sprintf("server = %q\n[host.\"http://127.0.0.1:1\"]\n", full.URL))
	mirror(t, dir, "broken.example", "server = [")
	mirror(t, dir, "word2.example", fmt.Sprintf("[host.%q]\ncapabilities = [\"fly\"]\n", full.URL))
	mirror(t, dir, "word.example", fmt.Sprintf("server = %q\ncapabilities = [\"fly\"]\n", full.URL))

	s := open(t, withDir(dir))
	for _, name := range []string{"anything.example/a:1", "first.example/a:1", "pull-only.example/a:1", "no-pull.example/a:1", "path.example/b:1", "dead.example/a:1", "port.example:5000/a:1"} {
		img := pull(t, s, name)
		if len(img.RepoTags) == 0 {
			t.Errorf("%s has no tag", name)
		}
		if err := s.Remove(context.Background(), img.ID); err != nil {
			t.Error(err)
		}
		if err := s.Collect(context.Background()); err != nil {
			t.Error(err)
		}
	}
	if blobs.count("/blobs/") == 0 || blobs.count("/manifests/1") != 0 {
		t.Errorf("the mirror that can only pull: %v", blobs.gets)
	}
	if empty.count("/") == 0 || resolver.count("/") != 0 {
		t.Errorf("the first, which has nothing: %v; the one that can't pull: %v", empty.gets, resolver.gets)
	}
	for _, name := range []string{"broken.example/a:1", "word.example/a:1", "word2.example/a:1"} {
		if err := pullErr(t, s, name); err == nil || !strings.Contains(err.Error(), "hosts.toml") {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestTLS: an unknown authority is refused; ca, client and skip_verify do what they say; HTTPS never falls back to plain.
func TestTLS(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("f", "a")))
	server := httptest.NewUnstartedServer(r)
	server.TLS = &tls.Config{ClientAuth: tls.RequestClientCert}
	var wantClient atomic.Bool
	server.Config.Handler = http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		if wantClient.Load() && len(q.TLS.PeerCertificates) == 0 {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		r.ServeHTTP(w, q)
	})
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	ca := filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	mirror(t, dir, "unknown.example", fmt.Sprintf("server = %q\n", server.URL))
	mirror(t, dir, "ca.example", fmt.Sprintf("server = %q\nca = %q\n", server.URL, ca))
	mirror(t, dir, "skip.example", fmt.Sprintf("server = %q\nskip_verify = true\n", server.URL))
	mirror(t, dir, "client.example", fmt.Sprintf("server = %q\nca = %q\nclient = %q\n", server.URL, ca, clientPair(t)))
	mirror(t, dir, "plain.example", fmt.Sprintf("server = %q\n", strings.Replace(r.URL, "http://", "https://", 1)))
	s := open(t, withDir(dir))
	pull(t, s, "ca.example/a:1")
	pull(t, s, "skip.example/a:1")
	if err := pullErr(t, s, "unknown.example/a:1"); !strings.Contains(err.Error(), "certificate") {
		t.Errorf("unknown authority: %v", err)
	}
	if err := pullErr(t, s, "plain.example/a:1"); err == nil {
		t.Errorf("plain HTTP where HTTPS is configured")
	}
	wantClient.Store(true)
	if err := pullErr(t, s, "ca.example/a:1"); err == nil {
		t.Error("without a client certificate")
	}
	pull(t, s, "client.example/a:1")
}

func clientPair(t *testing.T) string {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	tmpl := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "node"}, NotAfter: time.Now().Add(time.Hour)}
	cert, err := x509.CreateCertificate(rand.Reader, tmpl, tmpl, &key.PublicKey, key)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	var b bytes.Buffer
	pem.Encode(&b, &pem.Block{Type: "CERTIFICATE", Bytes: cert})
	pem.Encode(&b, &pem.Block{Type: "PRIVATE KEY", Bytes: der})
	name := filepath.Join(t.TempDir(), "client.pem")
	if err := os.WriteFile(name, b.Bytes(), 0o600); err != nil {
		t.Fatal(err)
	}
	return name
}

// TestMirrorCredentials: a credential for the registry does not go to a mirror when it says whose it is.
func TestMirrorCredentials(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(reg("f", "a")))
	var seen atomic.Bool
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if q.Header.Get("Authorization") != "" {
			seen.Store(true)
			return false
		}
		w.Header().Set("WWW-Authenticate", `Basic realm="x"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
	dir := t.TempDir()
	mirror(t, dir, "real.example", fmt.Sprintf("server = \"http://127.0.0.1:1\"\n[host.%q]\n", r.URL))
	s := open(t, withDir(dir))
	auth := image.Auth{Username: "me", Password: "secret", ServerAddress: "https://real.example"}
	if _, err := s.Pull(context.Background(), image.PullRequest{Ref: "real.example/a:1", Auth: auth}); err == nil || seen.Load() {
		t.Errorf("credential seen by mirror: %v; %v", seen.Load(), err)
	}
	if errors.Is(pullErr(t, s, "real.example/a:1"), fs.ErrNotExist) {
		t.Error("refusal is called absence")
	}
}
