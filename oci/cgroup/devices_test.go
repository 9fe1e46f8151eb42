package cgroup

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// decide runs a device program as the kernel does.
func decide(t *testing.T, code []insn, kind, access, major, minor int32) bool {
	t.Helper()
	ctx := map[int16]int32{0: access<<16 | kind, 4: major, 8: minor}
	var r [11]int64
	for pc := 0; pc < len(code); pc++ {
		i := code[pc]
		dst, src := i.regs&15, i.regs>>4
		switch i.code {
		case opLoadW:
			r[dst] = int64(ctx[i.off])
		case opMovReg:
			r[dst] = r[src]
		case opMovImm:
			r[dst] = int64(i.imm)
		case opAndImm:
			r[dst] &= int64(i.imm)
		case opRshImm:
			r[dst] >>= i.imm
		case opJne:
			if r[dst] != int64(i.imm) {
				pc += int(i.off)
			}
		case opJset:
			if r[dst]&int64(i.imm) != 0 {
				pc += int(i.off)
			}
		case unix.BPF_JMP | unix.BPF_JA:
			pc += int(i.off)
		case opExit:
			return r[0] == 1
		default:
			t.Fatalf("instruction %d: code %#x", pc, i.code)
		}
	}
	t.Fatal("ran off the end")
	return false
}

func containerRules() []Device {
	return []Device{
		{Access: "rwm"},
		{Allow: true, Type: "c", Access: "m"},
		{Allow: true, Type: "b", Access: "m"},
		{Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3), Access: "rwm"},
		{Allow: true, Type: "c", Major: ptr[int64](136), Access: "rw"},
		{Allow: true, Type: "c", Major: ptr[int64](5), Minor: ptr[int64](2), Access: "r"},
		{Allow: true, Type: "c", Major: ptr[int64](5), Minor: ptr[int64](2), Access: "w"},
	}
}

func TestDeviceRules(t *testing.T) {
	t.Parallel()
	const r, w, m = accessRead, accessWrite, accessMknod
	openRules := []Device{{Allow: true, Type: "a"}, {Type: "b", Major: ptr[int64](8), Access: "w"}}
	for _, c := range []struct {
		rules                      []Device
		kind, access, major, minor int32
		want                       bool
	}{
		{nil, typeChar, r, 1, 3, false},
		{containerRules(), typeChar, r | w, 1, 3, true},
		{containerRules(), typeChar, r | w | m, 1, 3, true},
		{containerRules(), typeBlock, r, 1, 3, false},
		{containerRules(), typeBlock, m, 8, 0, true},
		{containerRules(), typeBlock, r | m, 8, 0, false},
		{containerRules(), typeChar, r | w, 136, 77, true},
		{containerRules(), typeChar, r | w, 5, 2, true},
		{containerRules(), typeChar, r, 5, 1, false},
		{containerRules(), typeChar, r, 1, 1, false},
		{openRules, typeBlock, r, 8, 1, true},
		{openRules, typeBlock, r | w, 8, 1, false},
		{openRules, typeBlock, w, 9, 1, true},
		{openRules, typeChar, w, 8, 1, true},
	} {
		p, err := newPolicy(c.rules)
		if err != nil {
			t.Fatal(err)
		}
		if got := decide(t, p.program(), c.kind, c.access, c.major, c.minor); got != c.want {
			t.Errorf("%v: kind %d access %d %d:%d: %v", p, c.kind, c.access, c.major, c.minor, got)
		}
	}
}

func TestDeviceRulesV1(t *testing.T) {
	t.Parallel()
	p, err := newPolicy(containerRules())
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for _, w := range p.v1() {
		got = append(got, w.file+" "+w.value)
	}
	want := []string{"devices.deny a", "devices.allow c *:* m", "devices.allow b *:* m", "devices.allow c 1:3 rwm",
		"devices.allow c 136:* rw", "devices.allow c 5:2 rw"}
	if !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}

func TestDeviceRulesRefused(t *testing.T) {
	t.Parallel()
	for want, rules := range map[error][]Device{
		errors.ErrUnsupported: {{}, {Allow: true, Type: "c"}, {Type: "c", Major: ptr[int64](1)}},
		fs.ErrInvalid:         {{Type: "x"}},
	} {
		if _, err := newPolicy(rules); !errors.Is(err, want) {
			t.Errorf("%v: %v", rules, err)
		}
	}
	if _, err := newPolicy([]Device{{Type: "c", Access: "rx"}}); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
	if _, err := newPolicy([]Device{{Type: "c", Major: ptr[int64](1 << 33)}}); !errors.Is(err, fs.ErrInvalid) {
		t.Error(err)
	}
}

// TestDeviceRulesTakenBack allows and then denies the same devices.
func TestDeviceRulesTakenBack(t *testing.T) {
	t.Parallel()
	p, err := newPolicy([]Device{{}, {Allow: true, Type: "c", Major: ptr[int64](1), Minor: ptr[int64](3)},
		{Type: "c", Major: ptr[int64](1), Access: "wm"}})
	if err != nil || fmt.Sprint(p.exceptions) != "[c 1:3 r]" {
		t.Errorf("%v, %v", p, err)
	}
}
