package compile_test

import (
	"errors"
	"io/fs"
	"testing"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func TestBandwidth(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]int64{"1M": 1e6, "10M": 1e7, "1Mi": 1 << 20, "1.5k": 1500, "1000": 1000, "1P": 1e15} {
		in, out, err := compile.Bandwidth(map[string]string{"kubernetes.io/ingress-bandwidth": text})
		if in != want || out != 0 || err != nil {
			t.Errorf("%q = %d, %d, %v; want %d", text, in, out, err, want)
		}
	}
	for _, text := range []string{"", "M", "-1M", "1X", "999", "2P", "1e6", "0x10M", "1M\n", "1.2.3M", "9999999999999999999999M"} {
		_, _, err := compile.Bandwidth(map[string]string{"kubernetes.io/egress-bandwidth": text})
		if !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%q: %v", text, err)
		}
	}
}
