package bridge

import (
	"encoding/json"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestTurn(t *testing.T) {
	t.Parallel()
	const last = 6 // of a /29
	for name, c := range map[string]struct {
		turn turn
		used []uint32
		want []uint32 // taken one after the other
		err  bool     // then none is left
	}{
		"fresh":                      {turn{}, nil, []uint32{2, 3, 4, 5, 6}, true},
		"goes round":                 {turn{next: 6}, nil, []uint32{6, 2, 3, 4, 5}, true},
		"used ones are passed over":  {turn{next: 3}, []uint32{3, 4}, []uint32{5, 6, 2}, true},
		"returned ones come last":    {turn{next: 2, freed: []uint32{5, 3}}, nil, []uint32{2, 4, 6, 5, 3}, true},
		"returned and used":          {turn{freed: []uint32{5}}, []uint32{5}, []uint32{2, 3, 4, 6}, true},
		"returned outside the range": {turn{freed: []uint32{1, 7, 900}}, []uint32{2, 3, 4, 5, 6}, nil, true},
		"next outside the range":     {turn{next: 900}, nil, []uint32{2}, false},
	} {
		used := map[uint32]bool{}
		for _, i := range c.used {
			used[i] = true
		}
		var got []uint32
		for range c.want {
			i, err := c.turn.take(last, used)
			if err != nil {
				t.Errorf("%s: after %v: %v", name, got, err)
				break
			}
			used[i] = true
			got = append(got, i)
		}
		if !slices.Equal(got, c.want) {
			t.Errorf("%s: took %v, want %v", name, got, c.want)
		}
		if _, err := c.turn.take(last, used); c.err && !errors.Is(err, errFull) {
			t.Errorf("%s: error %v at the end", name, err)
		}
	}
}

func TestTurnForgetsTheOldest(t *testing.T) {
	t.Parallel()
	var tn turn
	for i := range uint32(remembered + 10) {
		tn.giveBack(i)
	}
	tn.giveBack(100)
	if len(tn.freed) != remembered || tn.freed[0] != 10 || tn.freed[len(tn.freed)-1] != 100 {
		t.Errorf("%d remembered, from %d to %d", len(tn.freed), tn.freed[0], tn.freed[len(tn.freed)-1])
	}
}

func testConf(t *testing.T, more string) *conf {
	t.Helper()
	c, err := parseConf([]byte(`{"cniVersion":"1.1.0","name":"net","subnet":"10.0.0.0/24","stateDir":"` + t.TempDir() + `"` + more + `}`))
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLeases(t *testing.T) {
	t.Parallel()
	c := testConf(t, "")
	l, err := openLeases(c)
	if err != nil {
		t.Fatal(err)
	}
	defer l.close()
	want := lease{Key: leaseKey("id", "eth0"), Host: "veth1", Boot: "b", Ports: []portMapping{{HostPort: 1, ContainerPort: 2, Protocol: "tcp"}}}
	got, err := l.take(c, nil, want)
	if err != nil || got.Index != firstIndex {
		t.Fatalf("%+v, %v", got, err)
	}
	all, err := l.list()
	if err != nil || len(all) != 1 || all["id@eth0"] != firstIndex {
		t.Fatalf("%v, %v", all, err)
	}
	read := l.read(want.Key, firstIndex)
	if read.Host != "veth1" || read.Boot != "b" || len(read.Ports) != 1 {
		t.Errorf("read %+v", read)
	}
	// A damaged lease still says which address it is.
	if err := os.WriteFile(filepath.Join(l.dir, l.name(got)), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if read := l.read(want.Key, firstIndex); read.Index != firstIndex || read.Key != want.Key {
		t.Errorf("read %+v of a damaged lease", read)
	}
	for range 2 {
		if err := l.release(got); err != nil {
			t.Fatal(err)
		}
	}
	if all, _ := l.list(); len(all) != 0 {
		t.Errorf("left: %v", all)
	}
	if tn := l.readTurn(); tn.next != 3 || !slices.Equal(tn.freed, []uint32{2}) {
		t.Errorf("turn %+v", tn)
	}
	if err := os.WriteFile(filepath.Join(l.dir, turnFile), []byte("3 x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if tn := l.readTurn(); tn.next != 0 || tn.freed != nil {
		t.Errorf("turn of a damaged file: %+v", tn)
	}
}

func TestLeaseKey(t *testing.T) {
	t.Parallel()
	if got := leaseKey("a", "b"); got != "a@b" {
		t.Error(got)
	}
	if got := leaseKey(strings.Repeat("x", 300), "eth0"); len(got) != 64 {
		t.Error(got)
	}
}

func TestAddresses(t *testing.T) {
	t.Parallel()
	c := testConf(t, `,"subnet6":"fd00::/64"`)
	for index, want := range map[uint32]string{1: "10.0.0.1/24 fd00::1/64", 254: "10.0.0.254/24 fd00::fe/64"} {
		var got []string
		for _, p := range c.addrs(index) {
			got = append(got, p.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("index %d: %v, want %s", index, got, want)
		}
	}
	if c.lastIndex() != 254 {
		t.Errorf("last index %d", c.lastIndex())
	}
	for _, x := range []struct {
		a    string
		n    uint32
		want string
	}{{"10.0.255.255", 1, "10.1.0.0"}, {"10.160.0.0", 4094, "10.160.15.254"}, {"fd00::ffff:ffff", 1, "fd00::1:0:0"}} {
		if got := nth(netip.MustParseAddr(x.a), x.n).String(); got != x.want {
			t.Errorf("%s + %d = %s, want %s", x.a, x.n, got, x.want)
		}
	}
	if got := broadcast(netip.MustParsePrefix("10.160.0.5/20")).String(); got != "10.160.15.255" {
		t.Errorf("broadcast %s", got)
	}
}

func TestElements(t *testing.T) {
	t.Parallel()
	c := testConf(t, `,"subnet6":"fd00::/64"`)
	for _, x := range []struct {
		port portMapping
		want []string // maps
	}{
		{portMapping{80, 8080, "tcp", ""}, []string{"any4", "any6"}},
		{portMapping{80, 8080, "tcp", "0.0.0.0"}, []string{"any4"}},
		{portMapping{80, 8080, "tcp", "::"}, []string{"any6"}},
		{portMapping{80, 8080, "udp", "127.0.0.1"}, []string{"ports4"}},
		{portMapping{80, 8080, "udp", "::ffff:10.1.1.1"}, []string{"ports4"}},
		{portMapping{80, 8080, "sctp", "fd01::1"}, []string{"ports6"}},
		{portMapping{0, 8080, "tcp", ""}, nil},
	} {
		var got []string
		for _, e := range c.elements(lease{Index: 2, Ports: []portMapping{x.port}}) {
			got = append(got, e.in.name)
			key, val := 8, 8
			if e.in.v6 {
				val = 20
			}
			if e.in.exact {
				key += val - 4
			}
			if len(e.key) != key || len(e.val) != val {
				t.Errorf("%+v: key of %d bytes, value of %d, want %d and %d", x.port, len(e.key), len(e.val), key, val)
			}
		}
		if !slices.Equal(got, x.want) {
			t.Errorf("%+v in %v, want %v", x.port, got, x.want)
		}
	}
}

func FuzzConf(f *testing.F) {
	f.Add([]byte(`{"subnet":"10.0.0.0/24","subnet6":"fd00::/64","runtimeConfig":{"portMappings":[{"hostPort":1,"containerPort":2,"protocol":"tcp","hostIP":"::1"}]}}`))
	f.Add([]byte(`{"subnet":"0.0.0.0/8"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		if !json.Valid(b) {
			return
		}
		c, err := parseConf(b)
		if err != nil {
			return
		}
		c.addrs(c.lastIndex())
		c.mac(c.lastIndex())
		c.elements(lease{Index: c.lastIndex(), Ports: c.RuntimeConfig.PortMappings})
	})
}
