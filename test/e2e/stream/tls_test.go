package stream

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"k8s.io/client-go/rest"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// A daemon that is told to encrypts its streams, for kubelet's clients as for others.
func TestTLS(t *testing.T) {
	n := harness.Get(t)
	n.Foreign(t)
	again := func(text string) {
		t.Helper()
		if err := n.Kill(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(n.Dir, "config.toml"), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		if err := n.Launch(); err != nil {
			t.Fatal(err)
		}
	}
	again("stream_tls = true\nstream_max_sessions = 2\n")
	defer again("")
	p := n.Run(t, harness.PodConfig("tls", n.Dir))
	id := p.Start(harness.Command("c", "sleep 10000"))
	for _, protocol := range protocols {
		var out bytes.Buffer
		s := session{node: n, id: id, protocol: protocol, in: strings.NewReader("hello"), out: &out, cmd: []string{"sh", "-c", "cat; exit 9"}, tls: rest.TLSClientConfig{Insecure: true}}
		if u := s.url(t); !strings.HasPrefix(u, "https://") {
			t.Errorf("URL %s", u)
		}
		if err := s.run(t.Context(), t); code(err) != 9 || out.String() != "hello" {
			t.Errorf("%s: %v, %q", protocol, err, out.String())
		}
		s.tls = rest.TLSClientConfig{}
		if err := s.run(t.Context(), t); err == nil || !strings.Contains(err.Error(), "certificate") {
			t.Errorf("%s: a client that trusts nobody: %v", protocol, err)
		}
	}
}
