package compile_test

import (
	"bytes"
	"errors"
	"slices"
	"strconv"
	"strings"
	"testing"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

func errorsIs(err, target error) bool { return errors.Is(err, target) }

const passwd = `root:x:0:0:root:/root:/bin/sh
bad:x:abc:0::/:
huge:x:4294967296:0::/:
neg:x:-1:0::/:
short:x
web:x:101:102:Web:/srv/web:/bin/false
web:x:0:0:again:/root:/bin/sh
1000:x:0:0:trap:/root:/bin/sh
nohome:x:103:104
odd:x:105:105::relative:
` + "ctl:x:106:106::/a\x01b:\n" + "crlf:x:107:107::/crlf:/x\r\n" + "last:x:108:109::/last:/x"

const group = `root:x:0:
web:x:102:
extra:x:200:root,web
more:x:201:web
more2:x:201:web
bad:x:x:web
g55:x:55
202:x:0:
last:x:300:last,web`

func TestResolveUser(t *testing.T) {
	t.Parallel()
	id := func(n int64) *rt.Int64Value { return &rt.Int64Value{Value: n} }
	type sc = rt.LinuxContainerSecurityContext
	for _, c := range []struct {
		name  string
		sc    *sc
		image string
		want  compile.User // no groups: must fail
	}{
		{"nothing", nil, "", compile.User{Name: "root", Home: "/root", Groups: []uint32{0, 200}}},
		{"uid unknown", &sc{RunAsUser: id(5)}, "web", compile.User{UID: 5, Home: "/", Groups: []uint32{0}}},
		{"uid known", &sc{RunAsUser: id(101)}, "", compile.User{UID: 101, GID: 102, Name: "web", Home: "/srv/web", Groups: []uint32{102, 200, 201, 300}}},
		{"uid and image group", &sc{RunAsUser: id(5)}, "5:77", compile.User{UID: 5, Home: "/", Groups: []uint32{0}}},
		{"group wins", &sc{RunAsUser: id(101), RunAsGroup: id(9)}, "", compile.User{UID: 101, GID: 9, Name: "web", Home: "/srv/web", Groups: []uint32{9, 200, 201, 300}}},
		{"strict", &sc{RunAsUser: id(101), SupplementalGroups: []int64{7, 102, 7}, SupplementalGroupsPolicy: rt.SupplementalGroupsPolicy_Strict}, "", compile.User{UID: 101, GID: 102, Name: "web", Home: "/srv/web", Groups: []uint32{102, 7}}},
		{"merge", &sc{RunAsUser: id(101), SupplementalGroups: []int64{7, 201}}, "", compile.User{UID: 101, GID: 102, Name: "web", Home: "/srv/web", Groups: []uint32{102, 200, 201, 300, 7}}},
		{"strict image group", &sc{SupplementalGroupsPolicy: rt.SupplementalGroupsPolicy_Strict}, "web:more", compile.User{UID: 101, GID: 201, Name: "web", Home: "/srv/web", Groups: []uint32{201}}},
		{"username", &sc{RunAsUsername: "web"}, "5", compile.User{UID: 101, GID: 102, Name: "web", Home: "/srv/web", Groups: []uint32{102, 200, 201, 300}}},
		{"username as number", &sc{RunAsUsername: "1000"}, "", compile.User{UID: 1000, Home: "/", Groups: []uint32{0}}},
		{"username unknown", &sc{RunAsUsername: "nobody"}, "", compile.User{}},
		{"username with newline", &sc{RunAsUsername: "we\nb"}, "", compile.User{}},
		{"both", &sc{RunAsUsername: "web", RunAsUser: id(1)}, "", compile.User{}},
		{"group alone", &sc{RunAsGroup: id(1)}, "web", compile.User{}},
		{"negative", &sc{RunAsUser: id(-1)}, "", compile.User{}},
		{"huge", &sc{RunAsUser: id(1 << 32)}, "", compile.User{}},
		{"no change", &sc{RunAsUser: id(1<<32 - 1)}, "", compile.User{}},
		{"group huge", &sc{RunAsUser: id(1), RunAsGroup: id(1 << 32)}, "", compile.User{}},
		{"extra huge", &sc{SupplementalGroups: []int64{1 << 32}}, "", compile.User{}},
		{"policy", &sc{SupplementalGroupsPolicy: 9}, "", compile.User{}},
		{"image uid", nil, "1000", compile.User{UID: 1000, Home: "/", Groups: []uint32{0}}},
		{"image uid:gid", nil, "1000:202", compile.User{UID: 1000, GID: 202, Home: "/", Groups: []uint32{202}}},
		{"image uid:group", nil, "1000:more", compile.User{UID: 1000, GID: 201, Home: "/", Groups: []uint32{201}}},
		{"image name:gid", nil, "web:5", compile.User{UID: 101, GID: 5, Name: "web", Home: "/srv/web", Groups: []uint32{5, 200, 201, 300}}},
		{"image :group", nil, ":more", compile.User{GID: 201, Name: "root", Home: "/root", Groups: []uint32{201, 200}}},
		{"image name:", nil, "web:", compile.User{UID: 101, GID: 102, Name: "web", Home: "/srv/web", Groups: []uint32{102, 200, 201, 300}}},
		{"image group without members", nil, "5:g55", compile.User{UID: 5, GID: 55, Home: "/", Groups: []uint32{55}}},
		{"no home", nil, "nohome", compile.User{UID: 103, GID: 104, Name: "nohome", Home: "/", Groups: []uint32{104}}},
		{"odd home", nil, "odd", compile.User{UID: 105, GID: 105, Name: "odd", Home: "/", Groups: []uint32{105}}},
		{"crlf", nil, "crlf", compile.User{UID: 107, GID: 107, Name: "crlf", Home: "/crlf", Groups: []uint32{107}}},
		{"last", nil, "last", compile.User{UID: 108, GID: 109, Name: "last", Home: "/last", Groups: []uint32{109, 300}}},
		{"image unknown group", nil, "web:none", compile.User{}},
		{"image bad group", nil, "web:4294967296", compile.User{}},
		{"image bad user", nil, "4294967296", compile.User{}},
		{"image wraps", nil, "18446744073709551616", compile.User{}},
		{"image signed", nil, "-0", compile.User{}},
		{"image plus", nil, "+5", compile.User{}},
		{"image three parts", nil, "1:2:3", compile.User{}},
		{"image newline", nil, "root\n", compile.User{}},
		{"broken line", nil, "bad", compile.User{}},
		{"control line", nil, "ctl", compile.User{}},
	} {
		cc := &rt.ContainerConfig{Linux: &rt.LinuxContainerConfig{SecurityContext: c.sc}}
		got, err := compile.ResolveUser(cc, compile.ImageConfig{User: c.image}, []byte(passwd), []byte(group))
		if len(c.want.Groups) == 0 {
			if !isInvalid(err) {
				t.Errorf("%s: %+v %v", c.name, got, err)
			}
			continue
		}
		if err != nil || got.UID != c.want.UID || got.GID != c.want.GID || got.Name != c.want.Name || got.Home != c.want.Home || !slices.Equal(got.Groups, c.want.Groups) {
			t.Errorf("%s: %+v %v, want %+v", c.name, got, err, c.want)
		}
	}
	if _, err := compile.ResolveUser(nil, compile.ImageConfig{}, make([]byte, compile.MaxAccounts+1), nil); !isInvalid(err) {
		t.Errorf("large passwd: %v", err)
	}
	u, err := compile.ResolveUser(nil, compile.ImageConfig{}, nil, nil)
	if err != nil || u.UID != 0 || u.Home != "/" {
		t.Errorf("no files: %+v %v", u, err)
	}
}

// Every string is the uid it reads as, or a name of the image, or refused.
func FuzzImageUser(f *testing.F) {
	for _, s := range []string{"", "0", "root", "4294967295", "00", "1e3", "0x0", "٣", " 0", "web:0", "a:b:c", "-1", "١:٢"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		u, err := compile.ResolveUser(nil, compile.ImageConfig{User: s}, []byte(passwd), []byte(group))
		if err != nil {
			if !isInvalid(err) {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		name, _, _ := strings.Cut(s, ":")
		if n, err := strconv.ParseUint(name, 10, 32); err == nil {
			if uint64(u.UID) != n {
				t.Errorf("%q is %d", s, u.UID)
			}
			return
		}
		if name != "" && u.Name != name {
			t.Errorf("%q is %+v", s, u)
		}
	})
}

// A user's fields written to a line of passwd read back as the same user.
func FuzzPasswd(f *testing.F) {
	f.Add("web", uint32(5), uint32(6), "/home/web")
	f.Add("a:b\n", uint32(0), uint32(0), "/x\nroot:x:0:0::/:")
	f.Fuzz(func(t *testing.T, name string, uid, gid uint32, home string) {
		line := name + ":x:" + strconv.Itoa(int(uid)) + ":" + strconv.Itoa(int(gid)) + "::" + home + ":/bin/sh\n"
		u, err := compile.ResolveUser(nil, compile.ImageConfig{User: strconv.Itoa(int(uid))}, []byte(line), nil)
		if err != nil {
			return
		}
		if u.UID != uid {
			t.Errorf("%q: uid %d", line, u.UID)
		}
		if strings.ContainsAny(u.Home+u.Name, "\n\x00") || !strings.HasPrefix(u.Home, "/") {
			t.Errorf("%q: %+v", line, u)
		}
	})
}

func BenchmarkResolveUser(b *testing.B) {
	big := bytes.Repeat([]byte(passwd+"\n"), 1000)
	for b.Loop() {
		if _, err := compile.ResolveUser(nil, compile.ImageConfig{User: "77"}, big, big); err != nil {
			b.Fatal(err)
		}
	}
}
