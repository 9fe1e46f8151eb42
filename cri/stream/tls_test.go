package stream_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/cri/stream"
)

// pairFiles writes a certificate with that serial number and its key.
func pairFiles(t *testing.T, dir string, serial int64) (cert, key string) {
	t.Helper()
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	want := &x509.Certificate{SerialNumber: big.NewInt(serial), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, BasicConstraintsValid: true, IsCA: true}
	der, err := x509.CreateCertificate(rand.Reader, want, want, k.Public(), k)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(k)
	if err != nil {
		t.Fatal(err)
	}
	cert, key = filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	for name, block := range map[string]*pem.Block{cert: {Type: "CERTIFICATE", Bytes: der}, key: {Type: "PRIVATE KEY", Bytes: keyDER}} {
		// As tools that renew certificates do: another file takes the name.
		if err := os.WriteFile(name+".new", pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(name+".new", name); err != nil {
			t.Fatal(err)
		}
	}
	return cert, key
}

// shown is the serial number of the certificate that the server shows.
func shown(t *testing.T, addr string, conf *tls.Config) int64 {
	t.Helper()
	c, err := tls.Dial("tcp", addr, conf)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	return c.ConnectionState().PeerCertificates[0].SerialNumber.Int64()
}

func TestTLS(t *testing.T) {
	dir := t.TempDir()
	cert, key := pairFiles(t, dir, 1)
	for name, opt := range map[string]stream.Options{"own": {TLS: true}, "files": {TLS: true, CertFile: cert, KeyFile: key}} {
		t.Run(name, func(t *testing.T) {
			s, f := start(t, opt)
			conf := &tls.Config{InsecureSkipVerify: true}
			u := url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"exit", "7"}, Stdout: true})
			if !strings.HasPrefix(u, "https://127.0.0.1:") {
				t.Errorf("URL %s", u)
			}
			r := new(result)
			ws, _, err := (&websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}, TLSClientConfig: conf}).Dial("wss"+strings.TrimPrefix(u, "https"), nil)
			if err != nil {
				t.Fatal(err)
			}
			for {
				_, msg, err := ws.ReadMessage()
				if err != nil {
					break
				}
				if msg[0] == 3 {
					r.status += string(msg[1:])
				}
			}
			ws.Close()
			if r.exitCode() != "7" {
				t.Errorf("status %s", r.status)
			}
			// A client that is gone is noticed through the encryption, too.
			u = url(t, s, &rt.ExecRequest{ContainerId: "c", Cmd: []string{"hang"}, Stdout: true})
			ws, _, err = (&websocket.Dialer{Subprotocols: []string{"v5.channel.k8s.io"}, TLSClientConfig: conf}).Dial("wss"+strings.TrimPrefix(u, "https"), nil)
			if err != nil {
				t.Fatal(err)
			}
			f.hangs(t)
			ws.Close()
			select {
			case <-f.ended:
			case <-time.After(time.Minute):
				t.Error("exec goes on without its client")
			}
			if _, err := tls.Dial("tcp", host(t, u), &tls.Config{InsecureSkipVerify: true, MaxVersion: tls.VersionTLS11}); err == nil {
				t.Error("TLS 1.1 is spoken")
			}
		})
	}
}

// A certificate that is renewed is shown without a restart; what is broken is not, and the old one stays.
func TestCertificateReload(t *testing.T) {
	dir := t.TempDir()
	cert, key := pairFiles(t, dir, 1)
	s, _ := start(t, stream.Options{TLS: true, CertFile: cert, KeyFile: key})
	addr := host(t, url(t, s, &rt.ExecRequest{}))
	conf := &tls.Config{InsecureSkipVerify: true}
	if got := shown(t, addr, conf); got != 1 {
		t.Errorf("serial %d", got)
	}
	pairFiles(t, dir, 2)
	if got := shown(t, addr, conf); got != 2 {
		t.Errorf("serial %d after the renewal", got)
	}
	for _, spoil := range []func() error{
		func() error { return os.WriteFile(cert, []byte("nonsense"), 0o600) },
		func() error { return os.Remove(key) },
	} {
		if err := spoil(); err != nil {
			t.Fatal(err)
		}
		if got := shown(t, addr, conf); got != 2 {
			t.Errorf("serial %d while the files are broken", got)
		}
	}
	pairFiles(t, dir, 3)
	if got := shown(t, addr, conf); got != 3 {
		t.Errorf("serial %d after they were mended", got)
	}
}

// What is said about TLS must make sense.
func TestTLSRefused(t *testing.T) {
	for name, opt := range map[string]stream.Options{
		"half": {TLS: true, CertFile: "/c"}, "off": {CertFile: "/c", KeyFile: "/k"},
	} {
		if _, err := stream.Listen(opt, fake{}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := stream.Listen(stream.Options{TLS: true, CertFile: "/nowhere/c", KeyFile: "/nowhere/k"}, fake{}); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("missing files: %v", err)
	}
}
