package stream

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/transport/spdy"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// listenIn listens on a port of a pod's network, as a process of the pod would, and serves each connection.
func listenIn(t *testing.T, pod string, serve func(net.Conn)) int {
	t.Helper()
	return listenAt(t, pod, "127.0.0.1:0", serve)
}

func listenAt(t *testing.T, pod, addr string, serve func(net.Conn)) int {
	t.Helper()
	runtime.LockOSThread()
	var nets [2]int
	for i, path := range []string{"/proc/thread-self/ns/net", filepath.Join("/run/netns", "berth-"+pod)} {
		fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(fd)
		nets[i] = fd
	}
	if err := unix.Setns(nets[1], unix.CLONE_NEWNET); err != nil {
		t.Fatal(err)
	}
	ln, err := net.Listen("tcp", addr)
	if err := unix.Setns(nets[0], unix.CLONE_NEWNET); err != nil {
		t.Fatal(err) // with the thread locked: it is not used again
	}
	runtime.UnlockOSThread()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	// ends with the listener.
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			// ends with the connection.
			go func() {
				defer c.Close()
				serve(c)
			}()
		}
	}()
	return ln.Addr().(*net.TCPAddr).Port
}

func echo(c net.Conn) {
	io.Copy(c, c)
	c.(*net.TCPConn).CloseWrite()
	io.Copy(io.Discard, c)
}

// forward starts kubectl's forwarder for ports of a pod and returns the local ones.
func forward(ctx context.Context, t *testing.T, n *harness.Node, pod, protocol string, ports ...int) ([]int, <-chan error) {
	t.Helper()
	r, err := n.Runtime.PortForward(ctx, &rt.PortForwardRequest{PodSandboxId: pod})
	if err != nil {
		t.Fatal(err)
	}
	u, _ := url.Parse(r.Url)
	conf := &rest.Config{Host: u.Scheme + "://" + u.Host}
	specs := make([]string, len(ports))
	for i, p := range ports {
		specs[i] = fmt.Sprintf("0:%d", p)
	}
	ready := make(chan struct{})
	var f *portforward.PortForwarder
	if protocol == "spdy" {
		transport, upgrader, uerr := spdy.RoundTripperFor(conf)
		if uerr != nil {
			t.Fatal(uerr)
		}
		f, err = portforward.NewOnAddressesWithContext(ctx, spdy.NewDialer(upgrader, &http.Client{Transport: transport}, "POST", u), []string{"127.0.0.1"}, specs, ready, io.Discard, io.Discard)
	} else {
		dialer, derr := portforward.NewSPDYOverWebsocketDialer(u, conf)
		if derr != nil {
			t.Fatal(derr)
		}
		f, err = portforward.NewOnAddressesWithContext(ctx, dialer, []string{"127.0.0.1"}, specs, ready, io.Discard, io.Discard)
	}
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	// ends with ctx.
	go func() { ended <- f.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-ended:
		t.Fatalf("%s: %v", protocol, err)
	case <-after():
		t.Fatalf("%s: not ready", protocol)
	}
	got, err := f.GetPorts()
	if err != nil {
		t.Fatal(err)
	}
	local := make([]int, len(got))
	for i, p := range got {
		local[i] = int(p.Local)
	}
	return local, ended
}

// through sends so many bytes there and back over one forwarded connection, and ends its side first.
func through(port int, size int64) error {
	c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
	if err != nil {
		return err
	}
	defer c.Close()
	in, out := newNoise(size), sha256.New()
	sent := make(chan error, 1)
	// ends when all is sent.
	go func() {
		_, err := io.Copy(c, in)
		c.(*net.TCPConn).CloseWrite()
		sent <- err
	}()
	n, err := io.Copy(out, c)
	if err == nil {
		err = <-sent
	}
	if err != nil || n != size || !bytes.Equal(in.sum.Sum(nil), out.Sum(nil)) {
		return fmt.Errorf("%d bytes of %d came back, %w", n, size, err)
	}
	return nil
}

// A server that has IPv6 only is found behind the pod's ::1.
func TestForwardIPv6(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("six", n.Dir))
	p.Start(harness.Command("c", "sleep 10000"))
	port := listenAt(t, p.ID, "[::1]:0", echo)
	for _, protocol := range protocols {
		local, _ := forward(t.Context(), t, n, p.ID, protocol, port)
		if err := through(local[0], 1<<20); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
	}
}

// The network of a pod in the host's is the host's: what listens there on loopback is what its ports lead to.
func TestForwardHostNetwork(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	cfg := harness.PodConfig("host", n.Dir)
	cfg.Linux.SecurityContext.NamespaceOptions.Network = rt.NamespaceMode_NODE
	p := n.Run(t, cfg)
	p.Start(harness.Command("c", "nc -l -p 28417 -e cat"))
	for _, protocol := range protocols {
		for _, addr := range []string{"127.0.0.1:0", "[::1]:0"} {
			ln, err := net.Listen("tcp", addr)
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			// ends with the listener.
			go func() {
				for {
					c, err := ln.Accept()
					if err != nil {
						return
					}
					echo(c)
					c.Close()
				}
			}()
			local, _ := forward(t.Context(), t, n, p.ID, protocol, ln.Addr().(*net.TCPAddr).Port)
			if err := through(local[0], 1<<20); err != nil {
				t.Errorf("%s to %s: %v", protocol, addr, err)
			}
		}
	}
	// And the container's own server.
	local, _ := forward(t.Context(), t, n, p.ID, protocols[0], 28417)
	harness.Eventually(t, harness.Patience, "the container answers", func() bool {
		c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local[0]))
		if err != nil {
			return false
		}
		defer c.Close()
		c.Write([]byte("there"))
		c.(*net.TCPConn).CloseWrite()
		b, _ := io.ReadAll(c)
		return string(b) == "there"
	})
}

// Fifty connections at once, over one session and over fifty.
func TestForwardMany(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("many", n.Dir))
	p.Start(harness.Command("c", "sleep 10000"))
	port := listenIn(t, p.ID, echo)
	for _, protocol := range protocols {
		for _, sessions := range []int{1, 50} {
			t.Run(fmt.Sprintf("%s %d", protocol, sessions), func(t *testing.T) {
				base(t, n, p.ID)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				var local []int
				var ends []<-chan error
				for range sessions {
					l, ended := forward(ctx, t, n, p.ID, protocol, port)
					local, ends = append(local, l...), append(ends, ended)
				}
				var all sync.WaitGroup
				for i := range 50 {
					all.Go(func() {
						if err := through(local[i%len(local)], 1<<20); err != nil {
							t.Errorf("connection %d: %v", i, err)
						}
					})
				}
				all.Wait()
				cancel()
				for _, ended := range ends {
					<-ended
				}
			})
		}
	}
}

// Much data through one connection.
func TestForwardBulk(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("forwardbulk", n.Dir))
	port := listenIn(t, p.ID, echo)
	base(t, n, p.ID)
	for _, protocol := range protocols {
		ctx, cancel := context.WithCancel(t.Context())
		local, ended := forward(ctx, t, n, p.ID, protocol, port)
		if err := through(local[0], *bulk<<20); err != nil {
			t.Errorf("%s: %v", protocol, err)
		}
		cancel()
		<-ended
	}
}

// A connection that the pod's side resets, or that nobody takes, costs nothing but itself.
func TestForwardReset(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("reset", n.Dir))
	good := listenIn(t, p.ID, echo)
	bad := listenIn(t, p.ID, func(c net.Conn) {
		c.Read(make([]byte, 1))
		reset(c)
	})
	base(t, n, p.ID)
	for _, protocol := range protocols {
		ctx, cancel := context.WithCancel(t.Context())
		local, ended := forward(ctx, t, n, p.ID, protocol, good, bad)
		for range 20 {
			c, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", local[1]))
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, strings.Repeat("x", 1000))
			io.Copy(io.Discard, c)
			c.Close()
			if err := through(local[0], 1<<16); err != nil {
				t.Fatalf("%s after a reset: %v", protocol, err)
			}
		}
		cancel()
		<-ended
	}
}
