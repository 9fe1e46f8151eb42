package program_test

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"reflect"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/oci/launch/program"
)

func sample() *program.Program {
	return &program.Program{
		Slots:  3,
		Listen: 0,
		Setup: []program.Step{{Op: program.OpMount, Slot: 2, Path: "/proc", Flags: 1 << 40, Num: -7, List: []string{"a", "", "c=d"}},
			{Op: program.OpSysctl, Slot: -1, Path: "net/x", Data: "1"}},
		Finish: []program.Step{},
		Process: program.Process{Args: []string{"sh"}, Env: []string{"A=\xff"}, Cwd: "/", UID: 1<<32 - 1, Groups: []uint32{1, 2}, SetGroups: true,
			Umask: 0o22, Rlimits: []program.Rlimit{{Resource: 7, Soft: 1, Hard: 1<<64 - 1}}, Terminal: true,
			Security: program.Security{Caps: &program.Capabilities{Bounding: 1 << 40}, NoNewPrivs: true, Filter: []byte{1, 2}, Notify: -1, NotifyState: []byte{}},
			Schedule: program.Schedule{Nice: -5, IOSet: true}},
	}
}

func TestRoundTrip(t *testing.T) {
	t.Parallel()
	want := sample()
	got, err := program.Decode(want.Encode())
	if err != nil {
		t.Fatal(err)
	}
	want.Setup[1].List = []string{}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Every shortened message and every one with a byte more is refused.
func TestTruncated(t *testing.T) {
	t.Parallel()
	b := sample().Encode()
	for i := range b {
		if _, err := program.Decode(b[:i]); !errors.Is(err, fs.ErrInvalid) {
			t.Fatalf("%d of %d bytes: %v", i, len(b), err)
		}
	}
	if _, err := program.Decode(append(b, 0)); !errors.Is(err, fs.ErrInvalid) {
		t.Errorf("a byte more: %v", err)
	}
}

func TestSlotsAreChecked(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*program.Program){
		"step":          func(p *program.Program) { p.Setup[0].Slot = 3 },
		"listen":        func(p *program.Program) { p.Listen = 3 },
		"none":          func(p *program.Program) { p.Setup[0].Op = program.OpNone },
		"many":          func(p *program.Program) { p.Slots = 1 << 20 },
		"notify":        func(p *program.Program) { p.Process.Security.Notify = 3 },
		"args":          func(p *program.Program) { p.Process.Args = nil },
		"mount without": func(p *program.Program) { p.Setup[0].Slot = -1 },
		"mask":          func(p *program.Program) { p.Setup[0] = program.Step{Op: program.OpMask, Num: 3} },
		"mask negative": func(p *program.Program) { p.Setup[0] = program.Step{Op: program.OpMask, Num: -1} },
		"console":       func(p *program.Program) { p.Setup[0] = program.Step{Op: program.OpConsole, Slot: -1, Num: 1 << 40} },
	} {
		p := sample()
		change(p)
		if _, err := program.Decode(p.Encode()); !errors.Is(err, fs.ErrInvalid) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// More descriptors than one message takes arrive in order.
func TestSend(t *testing.T) {
	t.Parallel()
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p := sample()
	p.Slots = 500
	files := make([]int, 450)
	for i := range files {
		files[i] = int(f.Fd())
	}
	sent := make(chan error, 1)
	// ends when the other end has read all, or is closed
	go func() { sent <- program.Send(pair[0], p, files) }()
	got, fds, err := program.Receive(pair[1])
	if err != nil || got.Slots != 500 || len(fds) != 450 {
		t.Errorf("%v, %d descriptors, %v", got, len(fds), err)
	}
	for _, fd := range fds {
		unix.Close(fd)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	if err := program.Say(pair[1], program.Warning, "text"); err != nil {
		t.Fatal(err)
	}
	if kind, text, err := program.Hear(pair[0]); kind != program.Warning || text != "text" || err != nil {
		t.Errorf("%c %q %v", kind, text, err)
	}
}

// FuzzDecode: what is accepted has one meaning, and no slot in it is out of range.
func FuzzDecode(f *testing.F) {
	f.Add(sample().Encode())
	f.Add([]byte{})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := program.Decode(b)
		if err != nil {
			if !errors.Is(err, fs.ErrInvalid) {
				t.Fatalf("class of %v", err)
			}
			return
		}
		again, err := program.Decode(p.Encode())
		if err != nil || !reflect.DeepEqual(again, p) {
			t.Fatalf("not stable: %v", err)
		}
		for _, s := range append(p.Setup, p.Finish...) {
			second := s.Op == program.OpMask || s.Op == program.OpConsole
			if s.Slot >= p.Slots || second && (s.Num < 0 || s.Num >= int64(p.Slots)) {
				t.Fatalf("slot out of range: %+v of %d", s, p.Slots)
			}
		}
	})
}

// FuzzReceive writes anything to the socket of an init, which ends in an error or a program, and closes what came.
func FuzzReceive(f *testing.F) {
	whole := func(p *program.Program) []byte {
		body := p.Encode()
		head := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
		return append(append(head, 0, 0, 0, 0), body...)
	}
	f.Add(whole(sample()))
	f.Add([]byte{4, 0, 0, 0, 1, 0, 0, 0, 'F', 1, 2, 3, 4})
	f.Add([]byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) { stream(t, b, func(fd int) { receive(t, fd) }) })
}

func receive(t *testing.T, fd int) {
	p, files, err := program.Receive(fd)
	if err == nil && p == nil || err == nil && len(files) > p.Slots {
		t.Fatalf("%d descriptors, %+v", len(files), p)
	}
}

// FuzzHear is the other direction: what the runtime reads from an init, which may have been taken over.
func FuzzHear(f *testing.F) {
	f.Add([]byte{program.Failure, 2, 0, 0, 0, 'n', 'o'})
	f.Add([]byte{program.Ready, 0, 0, 0, 0, program.Ready})
	f.Add([]byte{program.Warning, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		stream(t, b, func(fd int) {
			for {
				_, text, err := program.Hear(fd)
				if err != nil {
					return
				}
				if len(text) > 1<<20 {
					t.Fatalf("a text of %d bytes", len(text))
				}
			}
		})
	})
}

// stream gives read a socket that holds b and then ends.
func stream(t *testing.T, b []byte, read func(fd int)) {
	if len(b) > 100000 { // what a socket holds without a reader
		return
	}
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(pair[1])
	_, err = unix.Write(pair[0], b)
	unix.Close(pair[0])
	if err != nil {
		t.Fatal(err)
	}
	read(pair[1])
}
