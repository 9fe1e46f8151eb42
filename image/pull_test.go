package image_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/berth-runtime/berth/image"
)

func pullErr(t *testing.T, s *image.Store, ref string) error {
	t.Helper()
	img, err := s.Pull(context.Background(), image.PullRequest{Ref: ref})
	if err == nil {
		t.Errorf("%s was pulled: %s", ref, img.ID)
	}
	return err
}

// leftovers fails the test if a failed pull left anything.
func leftovers(t *testing.T, s *image.Store, root string) {
	t.Helper()
	s.Close()
	for _, glob := range []string{"layers/.staging/*", "layers/.trash/*", "images/.tmp*"} {
		if m, _ := filepath.Glob(filepath.Join(root, glob)); len(m) > 0 {
			t.Errorf("left behind: %q", m)
		}
	}
}

func TestNames(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	one := r.image("t:1", map[string]any{"User": "1"}, tarOf(reg("f", "1")))
	r.tag("t:2", one)
	r.tag("t:latest", one)
	r.tag("other:1", one)
	root := t.TempDir()
	s := openAt(t, root)
	repo := r.host() + "/t"

	digested := repo + "@" + one.Digest.String()
	a := pull(t, s, digested)
	if len(a.RepoTags) != 0 || !slices.Equal(a.RepoDigests, []string{digested}) {
		t.Errorf("by digest: tags %q, digests %q", a.RepoTags, a.RepoDigests)
	}
	a = pull(t, s, repo+":1@"+one.Digest.String())
	if len(a.RepoTags) != 0 || !slices.Equal(a.RepoDigests, []string{digested}) {
		t.Errorf("by tag and digest: tags %q, digests %q", a.RepoTags, a.RepoDigests)
	}
	for _, n := range []string{repo + ":1", repo + ":2", repo, r.host() + "/other:1"} {
		a = pull(t, s, n)
	}
	if want := []string{r.host() + "/other:1", repo + ":1", repo + ":2", repo + ":latest"}; !slices.Equal(a.RepoTags, want) {
		t.Errorf("tags %q, want %q", a.RepoTags, want)
	}
	if want := []string{r.host() + "/other@" + one.Digest.String(), digested}; !slices.Equal(a.RepoDigests, want) {
		t.Errorf("digests %q, want %q", a.RepoDigests, want)
	}
	if n := len(s.List()); n != 1 {
		t.Errorf("%d images", n)
	}

	two := r.image("t:1", map[string]any{"User": "2"}, tarOf(reg("f", "2")))
	b := pull(t, s, repo+":1")
	for _, s := range []*image.Store{s, openAt(t, root)} {
		a, err := s.Resolve(a.ID)
		if err != nil || slices.Contains(a.RepoTags, repo+":1") || !slices.Contains(a.RepoDigests, digested) {
			t.Errorf("image that lost its tag: %q %q %v", a.RepoTags, a.RepoDigests, err)
		}
		if got, err := s.Resolve(repo + ":1"); err != nil || got.ID != b.ID || !slices.Equal(got.RepoDigests, []string{repo + "@" + two.Digest.String()}) {
			t.Errorf("moved tag: %s %q %v", got.ID, got.RepoDigests, err)
		}
	}
}

func TestResolveErrors(t *testing.T) {
	t.Parallel()
	s := open(t)
	for ref, want := range map[string]error{
		"": fs.ErrInvalid, "a/UPPER": fs.ErrInvalid, "a b": fs.ErrInvalid, "name:": fs.ErrInvalid, "../etc": fs.ErrInvalid, "a@sha256:12": fs.ErrInvalid, "x\x00y": fs.ErrInvalid,
		"busybox": fs.ErrNotExist, "sha256:" + strings.Repeat("a", 64): fs.ErrNotExist, strings.Repeat("a", 64): fs.ErrNotExist, "abc": fs.ErrNotExist,
		"docker.io/library/x:y@sha256:" + strings.Repeat("0", 64): fs.ErrNotExist,
	} {
		if _, err := s.Resolve(ref); !errors.Is(err, want) {
			t.Errorf("%q: %v, want %v", ref, err, want)
		}
		if _, err := s.Hold(ref, "x"); !errors.Is(err, want) {
			t.Errorf("hold %q: %v, want %v", ref, err, want)
		}
		err := s.Remove(context.Background(), ref)
		if errors.Is(want, fs.ErrNotExist) && err != nil || errors.Is(want, fs.ErrInvalid) && !errors.Is(err, want) {
			t.Errorf("remove %q: %v", ref, err)
		}
	}
	for _, ref := range []string{"", "UPPER", "a b", strings.Repeat("x", 5000)} {
		if _, err := s.Pull(context.Background(), image.PullRequest{Ref: ref}); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("pull %q: %v", ref, err)
		}
	}
}

func TestShortNames(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("library/busybox:latest", nil, tarOf(reg("f", "1")))
	dir := t.TempDir()
	mirror(t, dir, "docker.io", fmt.Sprintf("[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", r.URL))
	s := open(t, func(o *image.Options) { o.RegistryDir = dir })
	img := pull(t, s, "busybox")
	if !slices.Equal(img.RepoTags, []string{"docker.io/library/busybox:latest"}) {
		t.Errorf("tags %q", img.RepoTags)
	}
	for _, ref := range []string{"busybox", "busybox:latest", "library/busybox", "docker.io/busybox", "index.docker.io/library/busybox:latest"} {
		if _, err := s.Resolve(ref); err != nil {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

func mirror(t *testing.T, dir, host, text string) {
	t.Helper()
	d := filepath.Join(dir, host)
	if err := errors.Join(os.MkdirAll(d, 0o755), os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

func TestIndex(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	good := r.image("", map[string]any{"User": "7"}, tarOf(reg("f", "1")))
	entry := func(d ocispec.Descriptor, os, arch string) ocispec.Descriptor {
		d.Platform = &ocispec.Platform{OS: os, Architecture: arch}
		return d
	}
	broken := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("not there"), Size: 5}
	index := func(all ...ocispec.Descriptor) ocispec.Descriptor {
		return r.manifest(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageIndex, "manifests": all}, ocispec.MediaTypeImageIndex)
	}
	garbage := r.manifest(map[string]any{"manifests": "?"}, ocispec.MediaTypeImageIndex)
	flat := index(entry(broken, "windows", runtime.GOARCH), entry(broken, "linux", "s390x"), entry(garbage, "linux", "mips"), entry(good, "linux", runtime.GOARCH))
	r.tag("flat:1", flat)
	nested := index(entry(broken, "linux", "s390x"), index(entry(broken, "linux", "mips")), flat)
	r.tag("nested:1", nested)
	r.tag("foreign:1", index(entry(broken, "linux", "s390x")))
	r.tag("empty:1", index())
	list := r.manifest(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json", "manifests": []any{entry(good, "linux", runtime.GOARCH)}}, "application/vnd.docker.distribution.manifest.list.v2+json")
	r.tag("list:1", list)
	deep := flat
	for range 6 {
		deep = index(deep)
	}
	r.tag("deep:1", deep)
	root := t.TempDir()
	s := openAt(t, root)
	var id string
	for _, name := range []string{"flat", "nested", "list"} {
		img := pull(t, s, r.host()+"/"+name+":1")
		if img.Config.User != "7" || id != "" && id != img.ID {
			t.Errorf("%s is %s user %s", name, img.ID, img.Config.User)
		}
		id = img.ID
	}
	img, _ := s.Resolve(r.host() + "/flat:1")
	if !slices.Contains(img.RepoDigests, r.host()+"/flat@"+flat.Digest.String()) {
		t.Errorf("digests %q do not have the index as pulled", img.RepoDigests)
	}
	for name, want := range map[string]error{"foreign": fs.ErrNotExist, "empty": fs.ErrNotExist, "deep": fs.ErrInvalid} {
		if err := pullErr(t, s, r.host()+"/"+name+":1"); !errors.Is(err, want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	leftovers(t, s, root)
}

// TestDocuments: what can be read in two ways, or is not what it was announced as, is not read at all.
func TestDocuments(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	img := r.image("", nil, tarOf(reg("f", "1")))
	var m map[string]any
	if err := json.Unmarshal(r.blobs[img.Digest.String()], &m); err != nil {
		t.Fatal(err)
	}
	with := func(change func(map[string]any)) any {
		c := map[string]any{}
		for k, v := range m {
			c[k] = v
		}
		change(c)
		return c
	}
	docs := map[string]ocispec.Descriptor{
		"both":              r.manifest(with(func(c map[string]any) { c["manifests"] = []any{} }), ocispec.MediaTypeImageManifest),
		"spelling":          r.manifest(with(func(c map[string]any) { c["Layers"] = []any{} }), ocispec.MediaTypeImageManifest),
		"index-as-manifest": r.manifest(map[string]any{"schemaVersion": 2, "manifests": []any{}}, ocispec.MediaTypeImageManifest),
		"manifest-as-index": r.manifest(m, ocispec.MediaTypeImageIndex),
		"schema1":           r.manifest(map[string]any{"schemaVersion": 1, "fsLayers": []any{}}, "application/vnd.docker.distribution.manifest.v1+json"),
		"nothing":           r.manifest(map[string]any{}, ocispec.MediaTypeImageManifest),
		"artifact": r.manifest(with(func(c map[string]any) {
			c["config"] = map[string]any{"mediaType": "application/vnd.oci.empty.v1+json", "digest": img.Digest, "size": 2}
		}), ocispec.MediaTypeImageManifest),
		"path-like digest": r.manifest(with(func(c map[string]any) {
			c["config"] = map[string]any{"mediaType": ocispec.MediaTypeImageConfig, "digest": "sha256:../../../etc/passwd", "size": 2}
		}), ocispec.MediaTypeImageManifest),
		"layers-missing": r.manifest(with(func(c map[string]any) { c["layers"] = []any{} }), ocispec.MediaTypeImageManifest),
		"huge config": r.manifest(with(func(c map[string]any) {
			c["config"] = map[string]any{"mediaType": ocispec.MediaTypeImageConfig, "digest": digest.FromString("x"), "size": int64(1) << 40}
		}), ocispec.MediaTypeImageManifest),
		"other platform": r.assembleFor("s390x"),
	}
	root := t.TempDir()
	s := openAt(t, root)
	for name, d := range docs {
		err := pullErr(t, s, r.host()+"/doc@"+d.Digest.String())
		t.Log(name, err)
		if !errors.Is(err, fs.ErrInvalid) && !errors.Is(err, errors.ErrUnsupported) && !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
	leftovers(t, s, root)
}

func (f *fakeRegistry) assembleFor(arch string) ocispec.Descriptor {
	c, _ := json.Marshal(map[string]any{"os": "linux", "architecture": arch, "rootfs": map[string]any{"type": "layers"}})
	return f.manifest(map[string]any{"schemaVersion": 2, "mediaType": ocispec.MediaTypeImageManifest, "config": f.blob(c, ocispec.MediaTypeImageConfig), "layers": []any{}}, ocispec.MediaTypeImageManifest)
}

// TestLayers: compressions and media types that fit and do not fit, digests that are wrong.
func TestLayers(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	raw := func(s string) []byte { return tarOf(reg("f", s)) }
	zw, _ := zstd.NewWriter(nil)
	build := func(name string, diff digest.Digest, content []byte, mediaType string) {
		r.tag(name+":1", r.assemble(nil, []digest.Digest{diff}, []ocispec.Descriptor{r.blob(content, mediaType)}))
	}
	build("gzip", digest.FromBytes(raw("gzip")), gz(raw("gzip")), ocispec.MediaTypeImageLayerGzip)
	build("zstd", digest.FromBytes(raw("zstd")), zw.EncodeAll(raw("zstd"), nil), ocispec.MediaTypeImageLayerZstd)
	build("tar", digest.FromBytes(raw("tar")), raw("tar"), ocispec.MediaTypeImageLayer)
	build("docker", digest.FromBytes(raw("docker")), gz(raw("docker")), "application/vnd.docker.image.rootfs.diff.tar.gzip")
	build("foreign", digest.FromBytes(raw("foreign")), gz(raw("foreign")), "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip")
	build("mislabelled", digest.FromBytes(raw("mislabelled")), zw.EncodeAll(raw("mislabelled"), nil), ocispec.MediaTypeImageLayerGzip)
	dm := r.blob(gz(raw("schema2")), "application/vnd.docker.image.rootfs.diff.tar.gzip")
	dc := r.blob([]byte(fmt.Sprintf(`{"os":"linux","architecture":%q,"rootfs":{"type":"layers","diff_ids":[%q]}}`, runtime.GOARCH, digest.FromBytes(raw("schema2")))), "application/vnd.docker.container.image.v1+json")
	r.tag("schema2:1", r.manifest(map[string]any{"schemaVersion": 2, "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "config": dc, "layers": []any{dm}}, "application/vnd.docker.distribution.manifest.v2+json"))
	r.tag("json:1", r.manifest(map[string]any{"schemaVersion": 2, "config": dc, "layers": []any{dm}, "x": 1}, "application/json"))
	build("sha512", digest.SHA512.FromBytes(raw("sha512")), gz(raw("sha512")), ocispec.MediaTypeImageLayerGzip)
	build("x-diff-id", digest.FromString("other"), gz(raw("x")), ocispec.MediaTypeImageLayerGzip)
	build("x-garbage", digest.FromBytes(raw("x-garbage")), append(gz(raw("x-garbage")), "garbage"...), ocispec.MediaTypeImageLayerGzip)
	build("x-encrypted", digest.FromBytes(raw("e")), gz(raw("e")), ocispec.MediaTypeImageLayerGzip+"+encrypted")
	build("x-not-tar", digest.FromString(strings.Repeat("no archive", 1000)), gz([]byte(strings.Repeat("no archive", 1000))), ocispec.MediaTypeImageLayerGzip)
	swapped := r.blob(gz(raw("swapped")), ocispec.MediaTypeImageLayerGzip)
	r.blobs[swapped.Digest.String()] = gz(raw("Swapped"))
	r.tag("x-digest:1", r.assemble(nil, []digest.Digest{digest.FromBytes(raw("swapped"))}, []ocispec.Descriptor{swapped}))
	long := r.blob(gz(raw("long")), ocispec.MediaTypeImageLayerGzip)
	long.Size--
	r.tag("x-long:1", r.assemble(nil, []digest.Digest{digest.FromBytes(raw("long"))}, []ocispec.Descriptor{long}))
	short := r.blob(gz(raw("short")), ocispec.MediaTypeImageLayerGzip)
	short.Size += 100
	r.tag("x-short:1", r.assemble(nil, []digest.Digest{digest.FromBytes(raw("short"))}, []ocispec.Descriptor{short}))

	root := t.TempDir()
	s := openAt(t, root)
	for _, name := range []string{"gzip", "zstd", "tar", "docker", "foreign", "mislabelled", "sha512", "schema2"} {
		img := pull(t, s, r.host()+"/"+name+":1")
		if b, err := img.ReadFile("f", 100); err != nil || string(b) != name {
			t.Errorf("%s: %q %v", name, b, err)
		}
	}
	pull(t, s, r.host()+"/json:1")
	for _, name := range []string{"x-diff-id", "x-garbage", "x-encrypted", "x-not-tar", "x-digest", "x-long", "x-short"} {
		t.Log(name, pullErr(t, s, r.host()+"/"+name+":1"))
	}
	if n := len(s.List()); n != 8 {
		t.Errorf("%d images", n)
	}
	leftovers(t, s, root)
}

// TestShared: many pulls at once of two images with common layers fetch each blob once; all get the image.
func TestShared(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	common := tarOf(reg("common", strings.Repeat("c", 1<<20)))
	r.image("a:1", map[string]any{"User": "1"}, common, tarOf(reg("a", "a")))
	r.image("b:1", map[string]any{"User": "2"}, common, tarOf(reg("b", "b")))
	blob := "/blobs/" + digest.FromBytes(gz(common)).String()
	var leaving sync.WaitGroup
	leaving.Add(2)
	left := make(chan struct{})
	// ends when the two that leave have left.
	go func() { leaving.Wait(); close(left) }()
	all := func(more time.Duration) { // waits until everybody has come, and a little
		for end := time.Now().Add(time.Minute); r.count("HEAD ") < 20 && time.Now().Before(end); {
			time.Sleep(10 * time.Millisecond)
		}
		time.Sleep(more)
	}
	r.before = func(w http.ResponseWriter, q *http.Request) bool {
		if strings.Contains(q.URL.Path, blob) {
			all(0)
			select {
			case <-left:
			case <-time.After(time.Minute):
			}
		}
		return false
	}
	s := open(t)
	var wg sync.WaitGroup
	for i := range 20 {
		wg.Go(func() {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			if i < 2 { // the first to come leave; their work is others' by then
				go func() { all(2 * time.Second); cancel() }()
			} else {
				time.Sleep(50 * time.Millisecond)
			}
			_, err := s.Pull(ctx, image.PullRequest{Ref: r.host() + "/" + []string{"a", "b"}[i%2] + ":1"})
			if i < 2 {
				leaving.Done()
			}
			if i >= 2 && err != nil || i < 2 && !errors.Is(err, context.Canceled) {
				t.Errorf("pull %d: %v", i, err)
			}
		})
	}
	wg.Wait()
	if n := r.count(blob); n != 1 {
		t.Errorf("the common layer was fetched %d times", n)
	}
	if n := len(s.List()); n != 2 {
		t.Errorf("%d images", n)
	}
}
