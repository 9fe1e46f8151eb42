package layer_test

import (
	"bytes"
	"compress/gzip"
	"io"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"

	"github.com/berth-runtime/berth/image/layer"
)

func gz(s string) []byte {
	var b bytes.Buffer
	w := gzip.NewWriter(&b)
	io.WriteString(w, s)
	w.Close()
	return b.Bytes()
}

func zst(s string, opts ...zstd.EOption) []byte {
	w, err := zstd.NewWriter(nil, opts...)
	if err != nil {
		panic(err)
	}
	return w.EncodeAll([]byte(s), nil)
}

func TestDecompress(t *testing.T) {
	t.Parallel()
	text := strings.Repeat("layer ", 1000)
	skippable := append([]byte{0x51, 0x2a, 0x4d, 0x18, 3, 0, 0, 0}, "abc"...)
	// A frame whose header asks for a window of 3.75 TiB (exponent 31, mantissa 7).
	window := []byte{0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xff, 1, 0, 0}
	for _, tc := range []struct {
		name string
		in   []byte
		want string
		err  string
	}{
		{name: "plain", in: []byte(text), want: text},
		{name: "empty"},
		{name: "gzip", in: gz(text), want: text},
		{name: "gzip members", in: append(gz(text), gz("more")...), want: text + "more"},
		{name: "gzip, trailing garbage", in: append(gz(text), strings.Repeat("garbage", 4)...), err: "invalid header"},
		{name: "gzip, cut", in: gz(text)[:40], err: "unexpected EOF"},
		{name: "zstd", in: zst(text), want: text},
		{name: "zstd, skippable frame first", in: append(skippable, zst(text)...), want: text},
		{name: "zstd frames", in: append(zst(text), zst("more")...), want: text + "more"},
		{name: "zstd, huge window", in: window, err: "window size exceeded"},
		{name: "zstd, cut", in: zst(text)[:20], err: "unexpected EOF"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			r, err := layer.Decompress(bytes.NewReader(tc.in))
			var got []byte
			if err == nil {
				got, err = io.ReadAll(r)
				r.Close()
			}
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("error is %v, want %q", err, tc.err)
				}
				return
			}
			if err != nil || string(got) != tc.want {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
}
