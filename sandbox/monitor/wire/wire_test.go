package wire_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"reflect"
	"strings"
	"syscall"
	"testing"
	"unicode/utf8"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// messages has every field of every message.
func messages() []any {
	exit := &wire.Exit{ID: "e", Pid: 8, Code: 137, Signal: 9, OOMKilled: true, FinishedAt: 1 << 62}
	return []any{
		&wire.Request{}, &wire.Reply{}, &wire.Exit{},
		exit,
		&wire.Request{V: 1, Seq: 1<<64 - 1, Op: wire.OpAttach, ID: "i", Name: "n", Signal: -9, Cols: 65535, Rows: 1, Stdin: true, Stdout: true, Stderr: true, Skip: 7},
		&wire.Request{V: 1, Seq: 2, Op: wire.OpSpawn, Spawn: &wire.Spawn{
			ID: "id", Path: "/p", Argv: []string{"a", "", "ü€😀\x00\x1f\"\\\n\r\t\u2028<>&"}, Env: []string{"A=b"}, Dir: "/d", PidFile: "/f", TTY: true,
			ConsoleSocket: "c", Log: "/l", LogMax: 1, Stdin: true, StdinOnce: true, PassIO: true, ExitFile: "/e", OOMFile: "/o", Held: []string{"h"},
			Clone: 0x7c020000, UIDMap: []wire.IDMap{{0, 1<<32 - 1, 3}, {4, 5, 6}}, GIDMap: []wire.IDMap{{7, 8, 9}}, Timeout: 1 << 40,
		}},
		&wire.Reply{V: 1, Seq: 3, Err: &wire.Error{Text: "no", Errno: syscall.ENOENT}, Spawned: &wire.Spawned{Stderr: "x\n"}},
		&wire.Reply{V: 1, Seq: 3, Pid: 5, Spawned: &wire.Spawned{Pid: 6}, More: true, List: []wire.Process{{ID: "a", Pid: 1}, {ID: "b", Exit: exit}}},
		&wire.Reply{V: 1, Exit: exit},
	}
}

// The codec and encoding/json understand each other, both ways, field by field.
func TestAgainstJSON(t *testing.T) {
	t.Parallel()
	for _, v := range messages() {
		ours, err := wire.Encode(v)
		if err != nil {
			t.Fatal(err)
		}
		theirs, err := json.Marshal(v)
		if err != nil {
			t.Fatal(err)
		}
		for _, b := range [][]byte{ours, theirs} {
			byUs, byThem := zero(v), zero(v)
			if err := wire.Decode(b, byUs); err != nil || !reflect.DeepEqual(byUs, v) {
				t.Errorf("%s: we read %+v, %v", b, byUs, err)
			}
			if err := json.Unmarshal(b, byThem); err != nil || !reflect.DeepEqual(byThem, v) {
				t.Errorf("%s: they read %+v, %v", b, byThem, err)
			}
		}
	}
}

// The words of the wire. A monitor may be older or newer than the daemon: lines are added here, never changed.
func TestWords(t *testing.T) {
	t.Parallel()
	all := messages()[4:]
	for i, want := range []string{
		`{"v":1,"seq":18446744073709551615,"op":"attach","id":"i","name":"n","signal":-9,"cols":65535,"rows":1,"stdin":true,"stdout":true,"stderr":true,"skip":7}`,
		`{"v":1,"seq":2,"op":"spawn","spawn":{"id":"id","path":"/p","argv":["a","","ü€😀\u0000\u001f\"\\\n\u000d\t` + "\u2028" + `<>&"],"env":["A=b"],"dir":"/d","pidFile":"/f","tty":true,"consoleSocket":"c","log":"/l","logMax":1,"stdin":true,"stdinOnce":true,"passIO":true,"exitFile":"/e","oomFile":"/o","held":["h"],"clone":2080505856,"uidMap":[{"containerID":0,"hostID":4294967295,"size":3},{"containerID":4,"hostID":5,"size":6}],"gidMap":[{"containerID":7,"hostID":8,"size":9}],"timeout":1099511627776}}`,
		`{"v":1,"seq":3,"err":{"text":"no","errno":2},"spawned":{"stderr":"x\n"}}`,
		`{"v":1,"seq":3,"pid":5,"spawned":{"pid":6},"list":[{"id":"a","pid":1},{"id":"b","exit":{"id":"e","pid":8,"code":137,"signal":9,"oomKilled":true,"finishedAt":4611686018427387904}}],"more":true}`,
		`{"v":1,"exit":{"id":"e","pid":8,"code":137,"signal":9,"oomKilled":true,"finishedAt":4611686018427387904}}`,
	} {
		if b, err := wire.Encode(all[i]); err != nil || string(b) != want {
			t.Errorf("%s %v\nwant\n%s", b, err, want)
		}
	}
}

// zero gives a new message of v's type.
func zero(v any) any { return reflect.New(reflect.TypeOf(v).Elem()).Interface() }

func TestStringsAreBytes(t *testing.T) {
	t.Parallel()
	b, err := wire.Encode(&wire.Request{Name: "a\xffb"})
	var q wire.Request
	if err == nil {
		err = wire.Decode(b, &q)
	}
	if err != nil || q.Name != "a\xffb" {
		t.Errorf("%q %v", q.Name, err)
	}
}

func TestDecode(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]*wire.Request{
		` { "v" : 1 , "unknown" : [ {"a":[1.5e3,-2,true,null]}, "x" ] , "id":"y" } `: {V: 1, ID: "y"},
		`{"id":"\u00fc\ud83d\ude00\ud83d\u0041\/\b\f"}`:                              {ID: "ü😀\ufffdA/\b\f"},
		`{"id":null,"stdin":null,"spawn":null,"signal":null}`:                        {Spawn: &wire.Spawn{}},
		`{"signal":-9223372036854775808}`:                                            {Signal: -1 << 63},
		``:                                                                           nil,
		`{`:                                                                          nil,
		`{}x`:                                                                        nil,
		`[]`:                                                                         nil,
		`{"v":1,}`:                                                                   nil,
		`{"v":1 "id":"x"}`:                                                           nil,
		`{"v":1.5}`:                                                                  nil,
		`{"v":"1"}`:                                                                  nil,
		`{"v":-}`:                                                                    nil,
		`{"cols":65536}`:                                                             nil,
		`{"cols":-1}`:                                                                nil,
		`{"seq":18446744073709551616}`:                                               nil,
		`{"id":"a` + "\n" + `"}`:                                                     nil,
		`{"id":"\x"}`:                                                                nil,
		`{"id":"\u12"}`:                                                              nil,
		`{"id":"abc`:                                                                 nil,
		`{"id":"\`:                                                                   nil,
		`{"stdin":1}`:                                                                nil,
		`{"x":}`:                                                                     nil,
		`{"x":` + strings.Repeat("[", 1000) + strings.Repeat("]", 1000) + `}`: nil,
		`{"spawn":{"argv":["a",]}}`: nil,
	} {
		var q wire.Request
		err := wire.Decode([]byte(text), &q)
		if (err == nil) != (want != nil) || want != nil && !reflect.DeepEqual(&q, want) {
			t.Errorf("%s: %+v %v", text, q, err)
		}
		if err != nil && !errors.Is(err, syscall.EBADMSG) {
			t.Errorf("%s: %v", text, err)
		}
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	if _, err := wire.Encode(&wire.Request{Name: strings.Repeat("\x00", wire.MaxPacket/6)}); !errors.Is(err, syscall.EMSGSIZE) {
		t.Error(err)
	}
	if err := wire.Decode(bytes.Repeat([]byte(" "), wire.MaxPacket+1), new(wire.Request)); !errors.Is(err, syscall.EMSGSIZE) {
		t.Error(err)
	}
	if _, err := wire.Encode(7); err == nil {
		t.Error("encoded a number")
	}
	if err := wire.Decode([]byte("7"), new(int)); err == nil {
		t.Error("decoded a number")
	}
}

func TestErrorClass(t *testing.T) {
	t.Parallel()
	var err error = &wire.Error{Text: "open x: no such file or directory", Errno: syscall.ENOENT}
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrExist) {
		t.Error(err)
	}
	if errors.Unwrap(&wire.Error{Text: "x"}) != nil {
		t.Error("an errno from nothing")
	}
}

// What decodes, encodes and decodes to the same again; what both codecs read, they read alike. Nothing panics.
func FuzzDecode(f *testing.F) {
	for _, v := range messages() {
		if b, err := wire.Encode(v); err == nil {
			f.Add(b)
		}
	}
	f.Add([]byte(`{"x":[1,{"y":null}],"id":"\ud83d\ude00"}`))
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, kind := range []any{&wire.Request{}, &wire.Reply{}, &wire.Exit{}} {
			v := zero(kind)
			if wire.Decode(b, v) != nil {
				continue
			}
			again, err := wire.Encode(v)
			if err != nil {
				continue // escapes have made it too large
			}
			w := zero(kind)
			if err := wire.Decode(again, w); err != nil {
				t.Fatalf("%s: %v", again, err)
			}
			third, _ := wire.Encode(w)
			if !bytes.Equal(again, third) {
				t.Fatalf("%s, then %s", again, third)
			}
			if !utf8.Valid(again) {
				continue
			}
			theirs := zero(kind)
			if err := json.Unmarshal(again, theirs); err != nil {
				t.Fatalf("%s: encoding/json: %v", again, err)
			}
		}
	})
}
