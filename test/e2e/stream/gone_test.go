package stream

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
	spdystream "k8s.io/streaming/pkg/httpstream/spdy"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// dial connects to the address of a session by hand, so that the test holds the socket: a client that vanishes.
func dial(t *testing.T, protocol, address string, more ...string) net.Conn {
	t.Helper()
	u, err := url.Parse(address)
	if err != nil {
		t.Fatal(err)
	}
	c, err := net.Dial("tcp", u.Host)
	if err != nil {
		t.Fatal(err)
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n", u.Path)
	if protocol == "websocket" {
		key := make([]byte, 16)
		rand.Read(key)
		head = fmt.Sprintf("GET %s HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n",
			u.Path, base64.StdEncoding.EncodeToString(key))
	}
	if _, err := c.Write([]byte(head)); err != nil {
		t.Fatal(err)
	}
	c.SetReadDeadline(time.Now().Add(harness.Patience))
	r := bufio.NewReaderSize(c, 16) // must not take what follows the header
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%s: %v, %v", protocol, resp, err)
	}
	c.SetReadDeadline(time.Time{})
	if protocol == "spdy" {
		conn, err := spdystream.NewClientConnection(c)
		if err != nil {
			t.Fatal(err)
		}
		for _, kind := range append([]string{"error", "stdin", "stdout"}, more...) {
			if _, err := conn.CreateStream(http.Header{"Streamtype": {kind}}); err != nil {
				t.Fatal(err)
			}
		}
	}
	return c
}

// A client that is gone, by a close or a crash, takes its command with it, and leaves an attached container alone.
func TestClientGone(t *testing.T) {
	n := harness.Get(t)
	p := n.Run(t, harness.PodConfig("gone", n.Dir))
	cfg := harness.Command("c", "while read x; do echo $x; done; sleep 10000")
	cfg.Stdin = true
	id := p.Start(cfg)
	base(t, n, p.ID)
	for _, protocol := range protocols {
		for _, tty := range []bool{false, true} {
			for _, crash := range []bool{false, true} {
				word := fmt.Sprintf("sleep 3%d", time.Now().UnixNano()%1e6)
				r, err := n.Runtime.Exec(t.Context(), &rt.ExecRequest{ContainerId: id, Cmd: []string{"sh", "-c", "trap '' HUP; (trap '' HUP TERM; " + word + ") & " + word}, Stdin: true, Stdout: true, Tty: tty})
				if err != nil {
					t.Fatal(err)
				}
				what := fmt.Sprintf("%s, tty %t, crash %t", protocol, tty, crash)
				var more []string
				if tty {
					more = []string{"resize"}
				}
				c := dial(t, protocol, r.Url, more...)
				harness.Eventually(t, harness.Patience, "the command runs: "+what, func() bool { return runs(t, n, id, word) })
				if crash {
					reset(c)
				}
				c.Close()
				harness.Eventually(t, harness.Patience, "the command and its child are gone with the client: "+what, func() bool { return !runs(t, n, id, word) })
			}
		}
		for _, crash := range []bool{false, true} {
			r, err := n.Runtime.Attach(t.Context(), &rt.AttachRequest{ContainerId: id, Stdin: true, Stdout: true})
			if err != nil {
				t.Fatal(err)
			}
			c := dial(t, protocol, r.Url)
			if crash {
				reset(c)
			}
			c.Close()
		}
	}
	if s := n.Status(t, id); s.State != rt.ContainerState_CONTAINER_RUNNING {
		t.Errorf("the container: %v", s)
	}
}

// A URL is good for one client, and what is refused says why.
func TestTokens(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	p := n.Run(t, harness.PodConfig("tokens", n.Dir))
	id := p.Start(harness.Command("c", "sleep 10000"))
	base(t, n, p.ID)
	r, err := n.Runtime.Exec(t.Context(), &rt.ExecRequest{ContainerId: id, Cmd: []string{"true"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	dial(t, "websocket", r.Url).Close()
	for _, address := range []string{r.Url, r.Url + "x", r.Url[:strings.LastIndex(r.Url, "/")] + "/"} {
		resp, err := http.Get(address)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusNotFound {
			t.Errorf("%s: %s", address, resp.Status)
		}
	}
}
