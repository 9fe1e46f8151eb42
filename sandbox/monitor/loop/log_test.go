package loop_test

import (
	"bytes"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/berth-runtime/berth/sandbox/monitor/loop"
)

var now = time.Date(2026, 2, 3, 4, 5, 6, 7, time.UTC).UnixNano()

// write makes a log of pieces, each for the stream that its index is even (stdout) or odd (stderr) for.
func write(t testing.TB, lineMax int, pieces ...[]byte) []byte {
	t.Helper()
	return writeTo(t, filepath.Join(t.TempDir(), "a", "b", "0.log"), lineMax, pieces...)
}

// writeTo is write for a path of the caller's.
func writeTo(t testing.TB, path string, lineMax int, pieces ...[]byte) []byte {
	t.Helper()
	l, err := loop.OpenLog(path, lineMax, new(loop.Batch))
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range pieces {
		l.Write(loop.Stream(i%2), now, p)
	}
	l.End(loop.Stdout, now)
	l.End(loop.Stderr, now)
	l.Close()
	l.Write(loop.Stdout, now, []byte("after the end\n"))
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestLogLines(t *testing.T) {
	t.Parallel()
	const o, e = "2026-02-03T04:05:06.000000007Z stdout ", "2026-02-03T04:05:06.000000007Z stderr "
	for name, c := range map[string]struct {
		max    int
		pieces []string
		want   string
	}{
		"nothing":        {8, nil, ""},
		"line":           {8, []string{"a\n"}, o + "F a\n"},
		"empty lines":    {8, []string{"\n\n"}, o + "F \n" + o + "F \n"},
		"no newline":     {8, []string{"abc"}, o + "P abc\n"},
		"joined":         {8, []string{"ab", "", "c\nd", "", "\n"}, o + "F abc\n" + o + "F d\n"},
		"streams":        {8, []string{"ab", "cd", "\n", "\n"}, o + "F ab\n" + e + "F cd\n"},
		"exactly full":   {4, []string{"abcd\n"}, o + "F abcd\n"},
		"full, then":     {4, []string{"abcd", "", "\n"}, o + "F abcd\n"},
		"one too many":   {4, []string{"abcde\n"}, o + "P abcd\n" + o + "F e\n"},
		"many":           {2, []string{"abcdef"}, o + "P ab\n" + o + "P cd\n" + o + "P ef\n"},
		"carriage":       {8, []string{"a\r\nb\r\n"}, o + "F a\r\n" + o + "F b\r\n"},
		"carriage, full": {4, []string{"abc\r\n"}, o + "F abc\r\n"},
		"carriage, cut":  {4, []string{"abc\r", "", "\nx"}, o + "F abc\r\n" + o + "P x\n"},
		"carriage, not":  {4, []string{"abc\r", "", "x"}, o + "P abc\r\n" + o + "P x\n"},
		"binary":         {8, []string{"\x00\xff\xfe\n"}, o + "F \x00\xff\xfe\n"},
		"both left":      {8, []string{"x", "y"}, o + "P x\n" + e + "P y\n"},
	} {
		var pieces [][]byte
		for _, p := range c.pieces {
			pieces = append(pieces, []byte(p))
		}
		if got := string(write(t, c.max, pieces...)); got != c.want {
			t.Errorf("%s:\n%q\nwant\n%q", name, got, c.want)
		}
	}
}

// The default and the limit of the line's length, and more in one write than the buffer holds.
func TestLogSizes(t *testing.T) {
	t.Parallel()
	long := []byte(strings.Repeat("x", 300_000) + "\n")
	for given, want := range map[int]int{0: 16384, -1: 16384, 1 << 30: 65536, 100: 100} {
		got := write(t, given, long)
		first, _, _ := bytes.Cut(got, []byte("\n"))
		if len(first)-len("2026-02-03T04:05:06.000000007Z stdout P ") != want {
			t.Errorf("%d: first line has %d bytes", given, len(first))
		}
		if out, _ := parse(t, got); out != string(long) {
			t.Errorf("%d: content differs", given)
		}
	}
}

// A time that is not of the second before is written anew.
func TestLogTime(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "log")
	l, err := loop.OpenLog(path, 0, new(loop.Batch))
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	times := []int64{now, now + 999_999_992, now + 1_000_000_000, now - 86400e9, 0, time.Now().UnixNano()}
	for _, at := range times {
		l.Write(loop.Stdout, at, []byte("x\n"))
	}
	b, _ := os.ReadFile(path)
	for i, line := range strings.Split(strings.TrimSuffix(string(b), "\n"), "\n") {
		stamp, _, _ := strings.Cut(line, " ")
		if got, err := time.Parse(time.RFC3339Nano, stamp); err != nil || got.UnixNano() != times[i] {
			t.Errorf("%q is %v, want %d", stamp, err, times[i])
		}
	}
}

var line = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z (stdout|stderr) ([FP]) `)

// parse gives the content of both streams.
func parse(t testing.TB, log []byte) (string, string) {
	t.Helper()
	var text [2]strings.Builder
	for len(log) > 0 {
		i := bytes.IndexByte(log, '\n')
		m := line.FindSubmatch(log[:max(i, 0)])
		if m == nil {
			t.Fatalf("line %q", log)
		}
		b := &text[0]
		if string(m[1]) == "stderr" {
			b = &text[1]
		}
		b.Write(log[len(m[0]):i])
		if string(m[2]) == "F" {
			b.WriteByte('\n')
		}
		log = log[i+1:]
	}
	return text[0].String(), text[1].String()
}

// Whatever is written, in whatever pieces, can be had back, and no line is longer than it may be.
func FuzzLog(f *testing.F) {
	f.Add([]byte("abc\ndef"), []byte("x\r\n"), 4, 3)
	f.Add([]byte(strings.Repeat("y", 100)), []byte("\n\n\n"), 16, 7)
	path := filepath.Join(f.TempDir(), "log")
	f.Fuzz(func(t *testing.T, out, err []byte, lineMax, step int) {
		lineMax, step = 1+abs(lineMax)%40, 1+abs(step)%50
		var pieces [][]byte
		for o, e := out, err; len(o)+len(e) > 0; {
			n, m := min(step, len(o)), min(step, len(e))
			pieces = append(pieces, o[:n], e[:m])
			o, e = o[n:], e[m:]
		}
		os.Remove(path)
		log := writeTo(t, path, lineMax, pieces...)
		for _, l := range bytes.Split(log, []byte("\n")) {
			if m := line.Find(l); len(l)-len(m) > lineMax {
				t.Errorf("%q is longer than %d", l, lineMax)
			}
		}
		if o, e := parse(t, log); o != string(out) || e != string(err) {
			t.Errorf("%q %q, want %q %q", o, e, out, err)
		}
	})
}

func abs(n int) int { return max(n, -(n + 1)) }

func BenchmarkLog(b *testing.B) {
	for name, size := range map[string]int{"16": 16, "128": 128, "4096": 4096} {
		b.Run(name, func(b *testing.B) {
			path := filepath.Join(b.TempDir(), "log")
			l, err := loop.OpenLog(path, 0, new(loop.Batch))
			if err != nil {
				b.Fatal(err)
			}
			defer l.Close()
			data := []byte(strings.Repeat(strings.Repeat("x", size-1)+"\n", 65536/size))
			b.SetBytes(int64(len(data)))
			for b.Loop() {
				l.Write(loop.Stdout, now, data)
				if st, _ := os.Stat(path); st.Size() > 256<<20 {
					b.StopTimer()
					os.Truncate(path, 0)
					b.StartTimer()
				}
			}
		})
	}
}
