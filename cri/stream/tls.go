package stream

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"io/fs"
	"log/slog"
	"math/big"
	"net"
	"os"
	"sync"
	"time"
)

const (
	// ownLife is how long a self-made certificate is valid. It is replaced when half of that is over.
	ownLife = 90 * 24 * time.Hour
	// ownEarly lets clients connect whose clock is behind.
	ownEarly = time.Hour
)

// certificate is what the server shows in TLS handshakes: a pair of files, read again when one of them has changed, or
// without files a certificate of its own, made at the start. A certificate that is renewed by replacing the files is
// used by the next handshake; a pair that can't be read or does not match is not, and the old one stays.
type certificate struct {
	cert, key string // files; both empty: self-made
	host      string
	log       *slog.Logger
	now       func() time.Time

	mu      sync.Mutex
	stamp   [2]fileStamp
	current *tls.Certificate
}

// fileStamp tells one content of a file from another as far as its inode can.
type fileStamp struct {
	size     int64
	modified time.Time
	info     fs.FileInfo // for os.SameFile
}

func (a fileStamp) same(b fileStamp) bool {
	return a.size == b.size && a.modified.Equal(b.modified) && a.info != nil && b.info != nil && os.SameFile(a.info, b.info)
}

// config returns the server's TLS configuration. The certificate must be there now.
func (c *certificate) config() (*tls.Config, error) {
	if (c.cert == "") != (c.key == "") {
		return nil, fmt.Errorf("streaming certificate: %w: certificate and key belong together, give both or neither", fs.ErrInvalid)
	}
	if _, err := c.get(nil); err != nil {
		return nil, err
	}
	// Upgrades exist in HTTP/1.1 only (RFC 9113, 8.6).
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"http/1.1"}, GetCertificate: c.get}, nil
}

// get is tls.Config's GetCertificate.
func (c *certificate) get(*tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var err error
	if c.cert == "" {
		err = c.renewOwn()
	} else {
		err = c.reload()
	}
	if err != nil && c.current == nil {
		return nil, err
	}
	if err != nil {
		c.log.Warn("streaming certificate stays the old one", "err", err)
	}
	return c.current, nil
}

// reload reads the files if they have changed since they were read, also when that failed: what is wrong is said once.
func (c *certificate) reload() error {
	var stamp [2]fileStamp
	for i, name := range []string{c.cert, c.key} {
		st, err := os.Stat(name)
		if err != nil {
			return fmt.Errorf("streaming certificate: %w", err)
		}
		stamp[i] = fileStamp{st.Size(), st.ModTime(), st}
	}
	if stamp[0].same(c.stamp[0]) && stamp[1].same(c.stamp[1]) {
		return nil
	}
	c.stamp = stamp
	pair, err := tls.LoadX509KeyPair(c.cert, c.key)
	if err != nil {
		return fmt.Errorf("streaming certificate %s with key %s: %w", c.cert, c.key, err)
	}
	c.current = &pair
	return nil
}

// renewOwn makes a certificate unless the one there is good for long.
func (c *certificate) renewOwn() error {
	now := c.now()
	if c.current != nil && now.Before(c.current.Leaf.NotAfter.Add(-ownLife/2)) {
		return nil
	}
	pair, err := ownCertificate(c.host, now)
	if err != nil {
		return fmt.Errorf("make streaming certificate: %w", err)
	}
	c.current = pair
	return nil
}

// ownCertificate makes a certificate that is its own authority, for the address the server listens on.
func ownCertificate(host string, now time.Time) (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, err
	}
	name, err := os.Hostname()
	if err != nil {
		name = "localhost"
	}
	want := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{Organization: []string{"berth"}, CommonName: name},
		NotBefore: now.Add(-ownEarly), NotAfter: now.Add(ownLife),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true, IsCA: true,
		DNSNames: []string{name, "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1), net.IPv6loopback},
	}
	if ip := net.ParseIP(host); ip != nil && !ip.IsLoopback() {
		want.IPAddresses = append(want.IPAddresses, ip)
	}
	der, err := x509.CreateCertificate(rand.Reader, want, want, key.Public(), key)
	if err != nil {
		return nil, err
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}
