package image_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/berth-runtime/berth/image"
)

func open(t testing.TB, change ...func(*image.Options)) *image.Store {
	t.Helper()
	return openAt(t, t.TempDir(), change...)
}

func openAt(t testing.TB, root string, change ...func(*image.Options)) *image.Store {
	t.Helper()
	needRoot(t)
	opts := image.Options{Root: root, Unpack: unpackArgv()}
	for _, c := range change {
		c(&opts)
	}
	s, err := image.Open(context.Background(), opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	for _, w := range s.Warnings() {
		t.Log("warning:", w)
	}
	return s
}

func pull(t testing.TB, s *image.Store, ref string) image.Image {
	t.Helper()
	img, err := s.Pull(context.Background(), image.PullRequest{Ref: ref})
	if err != nil {
		t.Fatal(err)
	}
	return img
}

func TestPullResolveRemove(t *testing.T) {
	t.Parallel()
	reg_ := newRegistry(t)
	reg_.image("lib/a:1", map[string]any{"User": "1002", "Env": []string{"A=b"}, "Cmd": []string{"/bin/sh"}},
		tarOf(dir("./"), dir("etc/"), reg("etc/passwd", "root:x:0:0::/root:/bin/sh\n"), reg("etc/gone", "x")),
		tarOf(dir("etc/"), reg("etc/.wh.gone", ""), reg("etc/group", "root:x:0:\n")))
	s := open(t)
	img := pull(t, s, reg_.host()+"/lib/a:1")
	if img.Config.User != "1002" || !slices.Equal(img.Config.Cmd, []string{"/bin/sh"}) || len(img.Layers) != 2 || img.Size == 0 {
		t.Errorf("image is %+v", img)
	}
	if want := []string{reg_.host() + "/lib/a:1"}; !slices.Equal(img.RepoTags, want) || len(img.RepoDigests) != 1 {
		t.Errorf("tags %q, want %q, digests %q", img.RepoTags, want, img.RepoDigests)
	}
	for name, want := range map[string]string{"/etc/passwd": "root:x:0:0::/root:/bin/sh\n", "/etc/group": "root:x:0:\n"} {
		if b, err := img.ReadFile(name, 1<<20); err != nil || string(b) != want {
			t.Errorf("%s is %q, %v", name, b, err)
		}
	}
	if _, err := img.ReadFile("/etc/gone", 10); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("deleted file: %v", err)
	}
	hex := strings.TrimPrefix(img.ID, "sha256:")
	for _, r := range []string{img.ID, hex, hex[:12], img.RepoTags[0], img.RepoDigests[0], reg_.host() + "/lib/a:1@" + strings.Split(img.RepoDigests[0], "@")[1]} {
		if got, err := s.Resolve(r); err != nil || got.ID != img.ID {
			t.Errorf("%s: %v, %v", r, got.ID, err)
		}
	}
	held, err := s.Hold(hex, "c1")
	if err != nil || held.ID != img.ID {
		t.Fatal(held.ID, err)
	}
	if err := s.Collect(context.Background()); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove(context.Background(), img.RepoTags[0]); err != nil {
		t.Fatal(err)
	}
	if n := len(s.List()); n != 0 {
		t.Errorf("%d images after removal", n)
	}
	if err := s.Remove(context.Background(), img.RepoTags[0]); err != nil {
		t.Errorf("second removal: %v", err)
	}
	if _, err := os.Stat(filepath.Join(held.Layers[0], "etc/group")); err != nil {
		t.Errorf("held layer: %v", err)
	}
	if err := s.Release("c1"); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(held.Layers[0]); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("released layer: %v", err)
	}
	if u, _ := s.Usage(); u.Bytes != 0 || u.Inodes != 0 {
		t.Errorf("usage when empty: %+v", u)
	}
}

func TestReopen(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	r.image("a:1", nil, tarOf(dir("./"), reg("f", "1")))
	root := t.TempDir()
	a := pull(t, openAt(t, root), r.host()+"/a:1")
	s := openAt(t, root)
	b, err := s.Resolve(r.host() + "/a:1")
	if err != nil || b.ID != a.ID || !slices.Equal(a.Layers, b.Layers) || len(s.Warnings()) != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	before := r.count("/blobs/")
	c := pull(t, s, r.host()+"/a:1")
	if c.ID != a.ID || r.count("/blobs/") != before {
		t.Errorf("second pull fetched blobs")
	}
}
