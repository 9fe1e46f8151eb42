package inside

import (
	"bufio"
	"bytes"
	"strconv"
	"strings"
	"testing"
)

// FuzzPasswd: whatever the file, the home that is found stands in a line of it whose third field is the user's number.
func FuzzPasswd(f *testing.F) {
	f.Add([]byte("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n"), uint32(1000))
	f.Add([]byte("evil:x:4294967296:0::/a:\nevil:x:-1:0::/b:\nevil:x:+0:0::/c:\nevil:x:0x0:0::/d:\n"), uint32(0))
	f.Add([]byte("1000:x:0:0::/root:\n:::::\nx:x: 7:7::/e:"), uint32(7))
	f.Add(append(bytes.Repeat([]byte("x"), 70000), "\nu:x:5:5::/h:"...), uint32(5))
	f.Fuzz(func(t *testing.T, text []byte, uid uint32) {
		home, err := homeIn(text, uid)
		if err != nil || home == "/" {
			return
		}
		if home == "" || strings.ContainsAny(home, "\x00\n:") {
			t.Fatalf("home %q", home)
		}
		want := strconv.FormatUint(uint64(uid), 10)
		lines := bufio.NewScanner(bytes.NewReader(text))
		lines.Buffer(nil, len(text)+1)
		for lines.Scan() {
			fields := strings.Split(lines.Text(), ":")
			// leading zeros are the same number
			if len(fields) > 5 && same(fields[2], want) &&
				strings.TrimRight(fields[5], "\r") == strings.TrimRight(home, "\r") {
				return
			}
		}
		t.Fatalf("%q is the home of %d in no line", home, uid)
	})
}

// same compares decimal numbers as texts.
func same(a, b string) bool {
	for len(a) > 1 && a[0] == '0' {
		a = a[1:]
	}
	return a == b
}
