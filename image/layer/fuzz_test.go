package layer_test

import (
	"archive/tar"
	"bytes"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/image/layer"
)

// FuzzApply gives hostile archives to the applier without its jail, so that only its own care keeps it inside: what is
// around must not change.
func FuzzApply(f *testing.F) {
	f.Add(archive(f, d("a"), l("a/b", "../.."), f_("a/b/canary", "x"), h("c", "a/b")))
	f.Add(archive(f, f_(".wh.a", ""), d("a"), f_("a/.wh..wh..opq", ""), l("a", "/etc"), f_("a/passwd", "x")))
	f.Add(archive(f, dev("n", tar.TypeChar, 0, 0), f_("../../x", "y")))
	f.Fuzz(func(t *testing.T, raw []byte) {
		c := newCage(t)
		root, err := unix.Open(c.dir, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(root)
		_, _ = layer.Apply(root, bytes.NewReader(raw), layer.Limits{Bytes: 1 << 20, Entries: 1000})
		c.check(t)
	})
}

// f_ is f where f is the fuzzer.
func f_(name, content string) entry { return f(name, content) }
