package compile_test

import (
	"testing"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func TestAccounts(t *testing.T) {
	t.Parallel()
	const passwd, group = "root:x:0:0:root:/root:/bin/sh\n7:x:500:500::/:/bin/sh\n", "root:x:0:\nusers:x:100:me"
	for _, c := range []struct {
		what        string
		user        compile.User
		env         string
		file        string
		line, group string // that are appended
	}{
		{"unknown uid", compile.User{UID: 1000}, "HOME=/data", passwd, "1000:x:1000:0::/data:/sbin/nologin\n", ""},
		{"unknown uid and gid", compile.User{UID: 1000, GID: 2000}, "", passwd, "1000:x:1000:2000::/:/sbin/nologin\n", "\n2000:x:2000:\n"},
		{"known gid", compile.User{UID: 1000, GID: 100}, "", passwd, "1000:x:1000:100::/:/sbin/nologin\n", ""},
		{"known uid", compile.User{UID: 500, Name: "7"}, "", passwd, "", ""},
		{"root that the image does not know", compile.User{}, "", "x:x:1:1::/:\n", "", ""},
		{"a name in the way", compile.User{UID: 7}, "", passwd, "", ""},
		{"no file", compile.User{UID: 1000}, "", "", "", ""},
		{"home of two lines", compile.User{UID: 1000}, "HOME=/a\nevil:x:0:0::/:/bin/sh", passwd, "1000:x:1000:0::/:/sbin/nologin\n", ""},
		{"home with a separator", compile.User{UID: 1000}, "HOME=/a:0:0", passwd, "1000:x:1000:0::/:/sbin/nologin\n", ""},
		{"relative home", compile.User{UID: 1000}, "HOME=a", passwd, "1000:x:1000:0::/:/sbin/nologin\n", ""},
	} {
		p, g := compile.Accounts(c.user, []string{"A=b", c.env}, []byte(c.file), []byte(group))
		wantP, wantG := "", ""
		if c.line != "" {
			wantP = c.file + c.line
		}
		if c.group != "" {
			wantG = group + c.group
		}
		if string(p) != wantP || string(g) != wantG {
			t.Errorf("%s: %q, %q; want %q, %q", c.what, p, g, wantP, wantG)
		}
	}
}
