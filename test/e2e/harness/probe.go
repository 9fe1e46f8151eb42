package harness

import (
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// probeEnv has the test binary be a probe instead: words of a command, see probe.
const probeEnv = "BERTH_PROBE"

// Probe is a container that runs the test binary as a probe, from a mount.
func Probe(t *testing.T, name string, words ...string) *rt.ContainerConfig {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cfg := Command(name, "")
	cfg.Command = []string{"/probe"}
	cfg.Envs = []*rt.KeyValue{{Key: probeEnv, Value: []byte(strings.Join(words, " "))}}
	cfg.Mounts = []*rt.Mount{{ContainerPath: "/probe", HostPath: self, Readonly: true}}
	return cfg
}

// Ask sends to a server of a Probe and returns its answer; netns is a named network namespace, "" this one.
func Ask(netns, proto, addr string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	cmd := exec.Command(self)
	if netns != "" {
		cmd = exec.Command("ip", "netns", "exec", netns, self)
	}
	cmd.Env = append(os.Environ(), probeEnv+"=ask "+proto+" "+addr)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return string(out), nil
}

// HasSCTP reports whether the kernel has the protocol.
func HasSCTP() bool {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err == nil {
		unix.Close(fd)
	}
	return err == nil
}

// probe carries out the words:
//
//	serve PROTO PORT   answers whatever comes with "PORT sees ADDRESS", the client's
//	ask PROTO ADDRESS  prints the answer, or fails within seconds
func probe(words []string) error {
	switch {
	case len(words) == 3 && words[0] == "serve" && words[1] == "sctp":
		return serveSCTP(words[2])
	case len(words) == 3 && words[0] == "serve" && words[1] == "udp":
		return serveUDP(words[2])
	case len(words) == 3 && words[0] == "serve":
		return serveTCP(words[2])
	case len(words) == 3 && words[0] == "ask":
		return ask(words[1], words[2])
	}
	return fmt.Errorf("probe: %q", words)
}

func serveTCP(port string) error {
	l, err := net.Listen("tcp", ":"+port)
	if err != nil {
		return err
	}
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(c.RemoteAddr().String())
		fmt.Fprintf(c, "%s sees %s", port, host)
		c.Close()
	}
}

func serveUDP(port string) error {
	c, err := net.ListenPacket("udp", ":"+port)
	if err != nil {
		return err
	}
	for {
		_, from, err := c.ReadFrom(make([]byte, 100))
		if err != nil {
			return err
		}
		host, _, _ := net.SplitHostPort(from.String())
		c.WriteTo(fmt.Appendf(nil, "%s sees %s", port, host), from)
	}
}

func serveSCTP(port string) error {
	var n int
	fmt.Sscan(port, &n)
	l, err := unix.Socket(unix.AF_INET6, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err == nil {
		err = unix.Bind(l, &unix.SockaddrInet6{Port: n})
	}
	if err == nil {
		err = unix.Listen(l, 8)
	}
	for err == nil {
		var fd int
		if fd, _, err = unix.Accept(l); err == nil {
			_, err = unix.Write(fd, []byte(port+" sees sctp"))
			unix.Close(fd)
		}
	}
	return err
}

func ask(proto, addr string) error {
	if proto == "sctp" {
		return askSCTP(addr)
	}
	c, err := net.DialTimeout(proto, addr, 2*time.Second)
	if err != nil {
		return err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(2 * time.Second))
	if proto == "udp" {
		c.Write([]byte("hello"))
		buf := make([]byte, 100)
		n, err := c.Read(buf)
		os.Stdout.Write(buf[:n])
		return err
	}
	b, err := io.ReadAll(c)
	if err == nil && len(b) == 0 {
		err = io.ErrUnexpectedEOF
	}
	os.Stdout.Write(b)
	return err
}

func askSCTP(addr string) error {
	to, err := netip.ParseAddrPort(addr)
	if err != nil {
		return err
	}
	family, sa := unix.AF_INET, unix.Sockaddr(&unix.SockaddrInet4{Port: int(to.Port()), Addr: to.Addr().Unmap().As4()})
	if to.Addr().Is6() {
		family, sa = unix.AF_INET6, &unix.SockaddrInet6{Port: int(to.Port()), Addr: to.Addr().As16()}
	}
	fd, err := unix.Socket(family, unix.SOCK_STREAM, unix.IPPROTO_SCTP)
	if err != nil {
		return err
	}
	for _, o := range []int{unix.SO_SNDTIMEO, unix.SO_RCVTIMEO} { // the first bounds connect as well (socket(7))
		unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, o, &unix.Timeval{Sec: 2})
	}
	if err := unix.Connect(fd, sa); err != nil {
		return err
	}
	buf := make([]byte, 100)
	n, err := unix.Read(fd, buf)
	if err == nil && n == 0 {
		err = io.ErrUnexpectedEOF
	}
	os.Stdout.Write(buf[:max(n, 0)])
	return err
}
