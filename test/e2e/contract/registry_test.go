package contract

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"path"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/test/e2e/harness"
)

// registry is a registry of a test's own: images of one small layer by "repository:tag", behind a gate.
type registry struct {
	*httptest.Server
	mu    sync.Mutex
	tags  map[string]string // digest by "repository:tag"
	blobs map[string][]byte
	asked map[string]int                                    // by method and path
	gate  func(w http.ResponseWriter, q *http.Request) bool // true: it has answered
}

func newRegistry(t *testing.T) *registry {
	r := &registry{tags: map[string]string{}, blobs: map[string][]byte{}, asked: map[string]int{}}
	r.Server = httptest.NewServer(r)
	t.Cleanup(r.Close)
	return r
}

func (r *registry) host() string { return strings.TrimPrefix(r.URL, "http://") }

func (r *registry) put(b []byte) string {
	d := fmt.Sprintf("sha256:%x", sha256.Sum256(b))
	r.blobs[d] = b
	return d
}

// image makes an image that holds one file with this text and returns its digest.
func (r *registry) image(name, text string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var layer bytes.Buffer
	w := tar.NewWriter(&layer)
	w.WriteHeader(&tar.Header{Name: "text", Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(text))})
	w.Write([]byte(text))
	w.Close()
	diff := r.put(layer.Bytes())
	encode := func(v any) string { b, _ := json.Marshal(v); return r.put(b) }
	config := encode(map[string]any{"os": "linux", "architecture": runtime.GOARCH, "config": map[string]any{"Labels": map[string]string{"of": text}},
		"rootfs": map[string]any{"type": "layers", "diff_ids": []string{diff}}})
	part := func(kind, digest string) map[string]any {
		return map[string]any{"mediaType": "application/vnd.oci.image." + kind, "digest": digest, "size": len(r.blobs[digest])}
	}
	d := encode(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
		"config": part("config.v1+json", config), "layers": []any{part("layer.v1.tar", diff)}})
	r.tags[name] = d
	return d
}

func (r *registry) ServeHTTP(w http.ResponseWriter, q *http.Request) {
	r.mu.Lock()
	r.asked[q.Method+" "+q.URL.Path]++
	gate := r.gate
	r.mu.Unlock()
	if gate != nil && gate(w, q) {
		return
	}
	r.mu.Lock()
	digest := path.Base(q.URL.Path)
	if repo, tag, ok := strings.Cut(strings.TrimPrefix(q.URL.Path, "/v2/"), "/manifests/"); ok {
		w.Header().Set("Content-Type", "application/vnd.oci.image.manifest.v1+json")
		if !strings.Contains(tag, ":") {
			digest = r.tags[repo+":"+tag]
		}
	}
	b, ok := r.blobs[digest]
	r.mu.Unlock()
	if !ok {
		http.NotFound(w, q)
		return
	}
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", fmt.Sprint(len(b)))
	w.Write(b)
}

// guarded lets in who brings user "me" and password "secret", a token got for that or for the refresh token, or the token "given".
func (r *registry) guarded(w http.ResponseWriter, q *http.Request) bool {
	basic := "Basic " + base64.StdEncoding.EncodeToString([]byte("me:secret"))
	have := q.Header.Get("Authorization")
	if q.URL.Path == "/token" {
		q.ParseForm()
		if have == basic || q.Form.Get("username") == "me" && q.Form.Get("password") == "secret" || q.Form.Get("refresh_token") == "refresh" {
			fmt.Fprint(w, `{"token":"tok","access_token":"tok"}`)
		} else {
			w.WriteHeader(http.StatusUnauthorized)
		}
		return true
	}
	if have == "Bearer tok" || have == "Bearer given" || have == basic {
		return false
	}
	w.Header().Set("WWW-Authenticate", fmt.Sprintf("Bearer realm=%q,service=\"s\"", r.URL+"/token"))
	w.WriteHeader(http.StatusUnauthorized)
	return true
}

func pull(ctx context.Context, n *harness.Node, ref string, auth *rt.AuthConfig) (string, error) {
	r, err := n.RawImages.PullImage(ctx, &rt.PullImageRequest{Image: &rt.ImageSpec{Image: ref}, Auth: auth})
	return r.GetImageRef(), err
}

// Every form of credential opens the registry it is for and no other; an image that is there is no answer to a wrong one.
func TestRegistryCredentials(t *testing.T) {
	r := newRegistry(t)
	r.image("private/thing:1", "private")
	r.gate = r.guarded
	n := harness.Own(t, harness.Setup{})
	ref, encoded := r.host()+"/private/thing:1", base64.StdEncoding.EncodeToString([]byte("me:secret"))
	for _, c := range []struct {
		name string
		auth *rt.AuthConfig
		ok   bool
	}{
		{"nothing", nil, false},
		{"user and password", &rt.AuthConfig{Username: "me", Password: "secret"}, true},
		{"nothing, when the image is there", nil, false},
		{"wrong password, when the image is there", &rt.AuthConfig{Username: "me", Password: "wrong"}, false},
		{"auth", &rt.AuthConfig{Auth: encoded}, true},
		{"identity token", &rt.AuthConfig{IdentityToken: "refresh"}, true},
		{"wrong identity token", &rt.AuthConfig{IdentityToken: "other"}, false},
		{"registry token", &rt.AuthConfig{RegistryToken: "given"}, true},
		{"wrong registry token", &rt.AuthConfig{RegistryToken: "other"}, false},
		{"for this server", &rt.AuthConfig{Auth: encoded, ServerAddress: r.host()}, true},
		{"for this server, as a URL", &rt.AuthConfig{Auth: encoded, ServerAddress: r.URL + "/v1/"}, true},
		{"for another server", &rt.AuthConfig{Auth: encoded, ServerAddress: "registry.example"}, false},
	} {
		_, err := pull(t.Context(), n, ref, c.auth)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", c.name, err)
		}
		if err != nil && (strings.Contains(err.Error(), "secret") || strings.Contains(err.Error(), encoded) || strings.HasPrefix(status.Convert(err).Message(), "RegistryUnavailable")) {
			t.Errorf("%s: the error says %v", c.name, err)
		}
	}
	if s, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: ref}, false); err != nil || s.Image == nil {
		t.Errorf("after a refused pull the image is gone: %v, %v", s, err)
	}
	_, err := pull(t.Context(), n, ref, &rt.AuthConfig{Auth: "***"})
	if status.Code(err) != codes.InvalidArgument {
		t.Errorf("auth that is not base64: %v", err)
	}
}

// The node's own credentials serve pulls that bring none; mirrors are asked in order, and one that is away is passed over.
func TestRegistryHosts(t *testing.T) {
	r := newRegistry(t)
	r.image("private/thing:1", "private")
	r.gate = r.guarded
	basic := base64.StdEncoding.EncodeToString([]byte("me:secret"))
	dead := httptest.NewServer(http.NotFoundHandler())
	dead.Close()
	n := harness.Own(t, harness.Setup{Hosts: map[string]string{
		"own.example":    fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  [host.%q.header]\n    Authorization = \"Basic %s\"\n", r.URL, r.URL, r.URL, basic),
		"mirror.example": fmt.Sprintf("server = %q\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n  [host.%q.header]\n    Authorization = \"Basic %s\"\n", dead.URL, dead.URL, r.URL, r.URL, basic),
		"bare.example":   fmt.Sprintf("server = %q\n", r.URL),
		"away.example":   fmt.Sprintf("server = %q\n", dead.URL),
	}})
	for host, ok := range map[string]bool{"own.example": true, "mirror.example": true, "bare.example": false} {
		if _, err := pull(t.Context(), n, host+"/private/thing:1", nil); (err == nil) != ok {
			t.Errorf("%s: %v", host, err)
		}
	}
	// kubelet sees the prefix only in a message without a code.
	if _, err := n.Images.PullImage(t.Context(), &rt.ImageSpec{Image: "away.example/x:1"}, nil, nil); err == nil || !strings.HasPrefix(err.Error(), "RegistryUnavailable") {
		t.Errorf("a registry that is away: %v", err)
	}
	if _, err := pull(t.Context(), n, "own.example/private/thing:2", nil); status.Code(err) != codes.NotFound {
		t.Errorf("a tag that is not there: %v", err)
	}
}

// A pull ends with its client's time, and says so by the code; one that many ask for is made once; a client that leaves does not
// end it for the others.
func TestPullTogether(t *testing.T) {
	r := newRegistry(t)
	digest := r.image("slow/thing:1", "slow")
	gate := make(chan struct{})
	r.gate = func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, "/blobs/") {
			select {
			case <-gate:
			case <-q.Context().Done():
			}
		}
		return false
	}
	n := harness.Own(t, harness.Setup{})
	ref := r.host() + "/slow/thing:1"
	asked := func() (blobs int) {
		r.mu.Lock()
		defer r.mu.Unlock()
		for what, n := range r.asked {
			if strings.Contains(what, "/blobs/") {
				blobs += n
			}
		}
		return blobs
	}
	harness.Eventually(t, harness.Patience, "a deadline is over while a layer is fetched", func() bool {
		short, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if _, err := pull(short, n, ref, nil); status.Code(err) != codes.DeadlineExceeded {
			t.Errorf("a deadline: %v", err)
		}
		return asked() > 0
	})
	before := asked()
	if s, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: ref}, false); err != nil || s.Image != nil {
		t.Errorf("half an image is there: %v, %v", s, err)
	}
	leaving, leave := context.WithCancel(t.Context())
	errs, got := make([]error, 9), make([]string, 9)
	var all sync.WaitGroup
	for i := range errs {
		ctx := t.Context()
		if i == 0 {
			ctx = leaving
		}
		all.Go(func() { got[i], errs[i] = pull(ctx, n, ref, nil) })
	}
	harness.Eventually(t, harness.Patience, "a layer is asked for again", func() bool { return asked() > before })
	leave()
	time.Sleep(100 * time.Millisecond)
	close(gate)
	all.Wait()
	if status.Code(errs[0]) != codes.Canceled {
		t.Errorf("who left: %v", errs[0])
	}
	for i := range errs[1:] {
		if errs[i+1] != nil || got[i+1] != got[1] || !strings.HasPrefix(got[1], "sha256:") {
			t.Errorf("who stayed: %q, %v", got[i+1], errs[i+1])
		}
	}
	s, err := n.Images.ImageStatus(t.Context(), &rt.ImageSpec{Image: ref}, false)
	if err != nil || s.Image.GetId() != got[1] || len(s.Image.RepoDigests) != 1 || !strings.HasSuffix(s.Image.RepoDigests[0], digest) {
		t.Errorf("%v, %v", s, err)
	}
}

// Tags and digests: a digest brings no tag and wins over one; a tag that moves leaves its image behind, which is still listed;
// every name goes with the image, however many remove it; pinned is advice; a size is never 0; verbose tells the configuration.
func TestImageNames(t *testing.T) {
	r := newRegistry(t)
	ctx := t.Context()
	old := r.image("a/thing:1", "old")
	n := harness.Own(t, harness.Setup{Config: fmt.Sprintf("pinned_images = \"%s/a/kept:*\"\n", r.host())})
	must := func(ref string) *rt.Image {
		t.Helper()
		id, err := pull(ctx, n, r.host()+"/"+ref, nil)
		if err != nil {
			t.Fatal(err)
		}
		s, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: id}, false)
		if err != nil || s.Image.GetId() != id || s.Image.GetSize() == 0 {
			t.Fatalf("%v, %v", s, err)
		}
		return s.Image
	}
	base := r.host() + "/a/thing"
	if i := must("a/thing@" + old); len(i.RepoTags) != 0 || strings.Join(i.RepoDigests, " ") != base+"@"+old {
		t.Errorf("by digest: %q, %q", i.RepoTags, i.RepoDigests)
	}
	first := must("a/thing:1")
	if strings.Join(first.RepoTags, " ") != base+":1" || strings.Join(first.RepoDigests, " ") != base+"@"+old {
		t.Errorf("by tag: %q, %q", first.RepoTags, first.RepoDigests)
	}
	r.image("a/thing:1", "new")
	if i := must("a/thing:1@" + old); i.Id != first.Id {
		t.Errorf("a digest with a tag that means another image by now: %s", i.Id)
	}
	second := must("a/thing:1")
	list, err := n.Images.ListImages(ctx, nil)
	if err != nil || len(list) != 2 || second.Id == first.Id {
		t.Fatalf("%v, %v", list, err)
	}
	for _, i := range list {
		if i.Id == first.Id && (len(i.RepoTags) != 0 || len(i.RepoDigests) != 1) {
			t.Errorf("an image whose tag has moved: %q, %q", i.RepoTags, i.RepoDigests)
		}
	}
	if l, err := n.Images.ListImages(ctx, &rt.ImageFilter{Image: &rt.ImageSpec{Image: base + ":1"}}); err != nil || len(l) != 1 || l[0].Id != second.Id {
		t.Errorf("a filtered list: %v, %v", l, err)
	}
	var all sync.WaitGroup
	for range 5 {
		all.Go(func() {
			if err := n.Images.RemoveImage(ctx, &rt.ImageSpec{Image: second.Id}); err != nil {
				t.Errorf("one of five removals at once: %v", err)
			}
		})
	}
	all.Wait()
	for _, ref := range []string{base + ":1", second.Id, second.RepoDigests[0]} {
		if s, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: ref}, false); err != nil || s.Image != nil {
			t.Errorf("%s after its removal: %v, %v", ref, s, err)
		}
	}
	r.image("a/kept:1", "kept")
	kept := must("a/kept:1")
	if !kept.Pinned || first.Pinned {
		t.Errorf("pinned: %v, %v", kept.Pinned, first.Pinned)
	}
	v, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: kept.Id}, true)
	var info struct {
		ImageSpec struct {
			Config struct{ Labels map[string]string }
		}
	}
	if err != nil || json.Unmarshal([]byte(v.Info["info"]), &info) != nil || info.ImageSpec.Config.Labels["of"] != "kept" {
		t.Errorf("verbose: %v, %v", v.Info, err)
	}
	if err := n.Images.RemoveImage(ctx, &rt.ImageSpec{Image: kept.Id[:20]}); err != nil {
		t.Errorf("removal of a pinned image, by the beginning of its id: %v", err)
	}
	if s, err := n.Images.ImageStatus(ctx, &rt.ImageSpec{Image: kept.Id}, false); err != nil || s.Image != nil {
		t.Errorf("a pinned image that was removed: %v, %v", s, err)
	}
}
