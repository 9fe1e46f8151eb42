package image_test

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sys/unix"

	"bytes"

	"github.com/berth-runtime/berth/image/layer"
)

// text gives n bytes that compress about 2.5 to 1, as file systems do.
func text(rng *rand.Rand, n int) string {
	words := make([]string, 512)
	for i := range words {
		words[i] = fmt.Sprintf("%0*x", 2+rng.IntN(7), rng.Uint32())
	}
	var b strings.Builder
	for b.Len() < n {
		b.WriteString(words[rng.IntN(len(words))])
		if rng.IntN(3) == 0 {
			b.WriteByte(byte(rng.UintN(256)))
		}
	}
	return b.String()[:n]
}

// benchLayers makes plain layers of so many files each, of so many bytes on average.
func benchLayers(layers, files, size int) (out [][]byte, raw int64) {
	for l := range layers {
		rng := rand.New(rand.NewPCG(1, uint64(l)))
		pool := text(rng, 4<<20)
		all := []file{dir("./"), dir("usr/")}
		for i := range files {
			if i%32 == 0 {
				all = append(all, dir(fmt.Sprintf("usr/l%d-%d/", l, i/32)))
			}
			n := 1 + rng.IntN(2*size)
			at := rng.IntN(len(pool) - n)
			all = append(all, reg(fmt.Sprintf("usr/l%d-%d/file%d", l, i/32, i), pool[at:at+n]))
		}
		t := tarOf(all...)
		raw += int64(len(t))
		out = append(out, t)
	}
	return out, raw
}

func cpu() float64 {
	var sum float64
	for _, who := range []int{unix.RUSAGE_SELF, unix.RUSAGE_CHILDREN} {
		var u unix.Rusage
		if err := unix.Getrusage(who, &u); err != nil {
			panic(err)
		}
		sum += float64(u.Utime.Nano()+u.Stime.Nano()) / 1e9
	}
	return sum
}

// BenchmarkPull pulls a middling image (10 layers, 3,200 files, 200 MiB) over loopback into a new store, by a process of its own: bytes are those of
// the plain layers, CPU time is of the store and its unpacking children without the registry, memory is the store's peak.
// BERTH_BENCH_DIR chooses the file system.
func BenchmarkPull(b *testing.B) {
	needRoot(b)
	plain, raw := benchLayers(10, 320, 64<<10)
	r := newRegistry(b)
	zw, _ := zstd.NewWriter(nil)
	var diffs []digest.Digest
	var gzipped, zstded, bare []ocispec.Descriptor
	for _, p := range plain {
		var buf bytes.Buffer
		w := gzip.NewWriter(&buf)
		w.Write(p)
		w.Close()
		diffs = append(diffs, digest.FromBytes(p))
		gzipped = append(gzipped, r.blob(buf.Bytes(), ocispec.MediaTypeImageLayerGzip))
		zstded = append(zstded, r.blob(zw.EncodeAll(p, nil), ocispec.MediaTypeImageLayerZstd))
		bare = append(bare, r.blob(p, ocispec.MediaTypeImageLayer))
	}
	for name, layers := range map[string][]ocispec.Descriptor{"gzip": gzipped, "zstd": zstded, "tar": bare} {
		r.tag(name+":1", r.assemble(nil, diffs, layers))
		b.Run(name, func(b *testing.B) {
			b.SetBytes(raw)
			var cpu, peak float64
			for range b.N {
				b.StopTimer()
				root, err := os.MkdirTemp(os.Getenv("BERTH_BENCH_DIR"), "berth-bench-")
				if err != nil {
					b.Fatal(err)
				}
				b.StartTimer()
				cmd := exec.Command("/proc/self/exe", "pull", root, r.host()+"/"+name+":1")
				status, err := cmd.Output()
				if err != nil {
					b.Fatal(err)
				}
				b.StopTimer()
				cpu += (cmd.ProcessState.SystemTime() + cmd.ProcessState.UserTime()).Seconds()
				_, hwm, _ := strings.Cut(string(status), "VmHWM:")
				kib, _ := strconv.ParseFloat(strings.Fields(hwm)[0], 64)
				peak = max(peak, kib/1024)
				os.RemoveAll(root)
				b.StartTimer()
			}
			b.ReportMetric(cpu/float64(b.N), "cpu-s/op")
			b.ReportMetric(peak, "peak-MiB")
		})
	}
}

// BenchmarkUnpack applies one plain layer of many small files: what the child costs.
func BenchmarkUnpack(b *testing.B) {
	needRoot(b)
	plain, raw := benchLayers(1, 3200, 4<<10)
	b.SetBytes(raw)
	before := cpu()
	for i := range b.N {
		d := filepath.Join(b.TempDir(), fmt.Sprint(i))
		if err := os.Mkdir(d, 0o755); err != nil {
			b.Fatal(err)
		}
		if _, err := layer.Unpack(context.Background(), layer.Job{Argv: []string{"/proc/self/exe", "unpack"}, Dir: d, Stream: bytes.NewReader(plain[0])}); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric((cpu()-before)/float64(b.N), "cpu-s/op")
}

// BenchmarkPresent is a pull of an image that is there: the registry is asked, nothing else.
func BenchmarkPresent(b *testing.B) {
	r := newRegistry(b)
	r.image("a:1", nil, tarOf(reg("f", "x")))
	s := open(b)
	pull(b, s, r.host()+"/a:1")
	for b.Loop() {
		pull(b, s, r.host()+"/a:1")
	}
}

// BenchmarkReadFile reads a small file of a merged image.
func BenchmarkReadFile(b *testing.B) {
	r := newRegistry(b)
	r.image("a:1", nil, tarOf(reg("f", "x")), tarOf(reg("g", "x")), tarOf(reg("h", "x")))
	s := open(b)
	img := pull(b, s, r.host()+"/a:1")
	for b.Loop() {
		if _, err := img.ReadFile("f", 100); err != nil {
			b.Fatal(err)
		}
	}
}
