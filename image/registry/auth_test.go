package registry

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The package's own names are tested here; what a registry sees is tested through image.Store.

func TestMatches(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		server, host string
		want         bool
	}{
		{"", "anything", true},
		{"quay.io", "quay.io", true},
		{"https://quay.io/v1/", "quay.io", true},
		{"https://quay.io:443", "quay.io", true},
		{"http://reg:80/", "reg", true},
		{"QUAY.io", "quay.io", true},
		{"quay.io", "quay.io.evil.example", false},
		{"quay.io", "evil.example", false},
		{"quay.io:5000", "quay.io", false},
		{"quay.io", "quay.io:5000", false},
		{"https://quay.io@evil.example", "quay.io", false},
		{"docker.io", "registry-1.docker.io", true},
		{"https://index.docker.io/v1/", "registry-1.docker.io", true},
		{"index.docker.io", "docker.io", true},
		{"docker.io", "mirror.example", false},
		{"://", "x", false},
	} {
		if got := (Auth{ServerAddress: tc.server}).matches(tc.host); got != tc.want {
			t.Errorf("%q for %q: %v", tc.server, tc.host, got)
		}
	}
}

func TestSecretsAreNotPrinted(t *testing.T) {
	t.Parallel()
	a := Auth{Username: "u-s3cret", Password: "p-s3cret", RegistryToken: "t-s3cret"}
	for _, f := range []string{"%v", "%+v", "%#v", "%s", "%q"} {
		if s := fmt.Sprintf(f, a) + fmt.Sprintf(f, struct{ A Auth }{a}); strings.Contains(s, "s3cret") {
			t.Errorf("%s prints %s", f, s)
		}
	}
}

func TestCheckRedirect(t *testing.T) {
	t.Parallel()
	for target, kept := range map[string]bool{"https://a.example/x": true, "https://A.example/x": true, "https://sub.a.example/x": false, "https://a.example:444/x": false, "http://a.example/x": false, "https://b.example/": false} {
		first, _ := url.Parse("https://a.example/v2/")
		u, _ := url.Parse(target)
		req := &http.Request{URL: u, Header: http.Header{"Authorization": {"x"}, "Cookie": {"x"}, "x-odd": {"x"}, "Range": {"bytes=1-"}}}
		if err := checkRedirect(req, []*http.Request{{URL: first}}); err != nil {
			t.Error(err)
		}
		if got := len(req.Header) == 4; got != kept || req.Header.Get("Range") == "" {
			t.Errorf("%s: %v", target, req.Header)
		}
	}
	if err := checkRedirect(nil, make([]*http.Request, 10)); err == nil {
		t.Error("eleven redirects")
	}
}

func FuzzParse(f *testing.F) {
	for _, s := range []string{`{}`, `{"manifests":[]}`, `{"config":{},"layers":[]}`, `{"Layers":1}`, `[]`, `{"manifests":null,"layers":null}`} {
		f.Add([]byte(s), "application/vnd.oci.image.index.v1+json")
	}
	f.Fuzz(func(t *testing.T, raw []byte, mediaType string) {
		doc, err := parse(raw, mediaType)
		if err == nil && (doc.Manifests == nil) == (doc.Config == nil) {
			t.Errorf("neither or both: %q", raw)
		}
	})
}
