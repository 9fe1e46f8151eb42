package systemd

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
)

// Message kinds and header fields (D-Bus specification, "Message Format").
const (
	kindCall   = 1
	kindReply  = 2
	kindError  = 3
	kindSignal = 4

	fieldPath        = 1
	fieldInterface   = 2
	fieldMember      = 3
	fieldErrorName   = 4
	fieldReplySerial = 5
	fieldDestination = 6
	fieldSignature   = 8
)

// maxMessage bounds what is read from the peer; systemd's answers to these
// calls are a few hundred bytes.
const maxMessage = 1 << 20

type message struct {
	kind      byte
	serial    uint32
	replyTo   uint32
	path      string
	iface     string
	member    string
	errorName string
	dest      string
	signature string
	body      []byte
}

// Property is a unit property. Values are string, bool, uint32, uint64, or
// slices of byte, uint32 and pairs of strings.
type Property struct {
	Name  string
	Value any
}

// auxiliary is the empty list of further units in StartTransientUnit.
type auxiliary struct{}

func managerCall(member string, args ...any) message {
	return call(destination, object, manager, member, args...)
}

func call(dest, path, iface, member string, args ...any) message {
	m := message{kind: kindCall, dest: dest, path: path, iface: iface, member: member}
	var e encoder
	for _, a := range args {
		m.signature += signature(a)
		e.value(a)
	}
	m.body = e.b
	return m
}

// signature is the D-Bus type of a Go value; unknown types are a mistake in
// this package.
func signature(v any) string {
	switch v.(type) {
	case string:
		return "s"
	case bool:
		return "b"
	case uint32:
		return "u"
	case uint64:
		return "t"
	case []byte:
		return "ay"
	case []uint32:
		return "au"
	case [][2]string:
		return "a(ss)"
	case []Property:
		return "a(sv)"
	case auxiliary:
		return "a(sa(sv))"
	}
	panic(fmt.Sprintf("systemd: no D-Bus type for %T", v))
}

// encoder appends values; alignment counts from the start of the buffer, which
// is the start of a message or of its body, a multiple of 8 either way.
type encoder struct{ b []byte }

func (e *encoder) align(n int) {
	for len(e.b)%n != 0 {
		e.b = append(e.b, 0)
	}
}

func (e *encoder) uint32(n uint32) {
	e.align(4)
	e.b = binary.LittleEndian.AppendUint32(e.b, n)
}

func (e *encoder) string(s string) {
	e.uint32(uint32(len(s)))
	e.b = append(append(e.b, s...), 0)
}

func (e *encoder) sig(s string) {
	e.b = append(append(append(e.b, byte(len(s))), s...), 0)
}

// array writes a length, the padding before the first element (not counted in
// it), and the elements.
func (e *encoder) array(align int, elements func()) {
	e.uint32(0)
	at := len(e.b) - 4
	e.align(align)
	begin := len(e.b)
	elements()
	binary.LittleEndian.PutUint32(e.b[at:], uint32(len(e.b)-begin))
}

func (e *encoder) value(v any) {
	switch v := v.(type) {
	case string:
		e.string(v)
	case bool:
		e.uint32(map[bool]uint32{true: 1}[v])
	case uint32:
		e.uint32(v)
	case uint64:
		e.align(8)
		e.b = binary.LittleEndian.AppendUint64(e.b, v)
	case []byte:
		e.array(1, func() { e.b = append(e.b, v...) })
	case []uint32:
		e.array(4, func() {
			for _, n := range v {
				e.uint32(n)
			}
		})
	case [][2]string:
		e.array(8, func() {
			for _, pair := range v {
				e.align(8)
				e.string(pair[0])
				e.string(pair[1])
			}
		})
	case []Property:
		e.array(8, func() {
			for _, p := range v {
				e.align(8)
				e.string(p.Name)
				e.sig(signature(p.Value))
				e.value(p.Value)
			}
		})
	case auxiliary:
		e.array(8, func() {})
	}
}

// encode lays a message out.
func (m message) encode() []byte {
	e := encoder{b: []byte{'l', m.kind, 0, 1}}
	e.uint32(uint32(len(m.body)))
	e.uint32(m.serial)
	e.array(8, func() {
		for _, f := range []struct {
			code byte
			sig  string
			text string
		}{{fieldPath, "o", m.path}, {fieldInterface, "s", m.iface}, {fieldMember, "s", m.member},
			{fieldErrorName, "s", m.errorName}, {fieldDestination, "s", m.dest}, {fieldSignature, "g", m.signature}} {
			if f.text == "" {
				continue
			}
			e.align(8)
			e.b = append(e.b, f.code)
			e.sig(f.sig)
			if f.sig == "g" {
				e.sig(f.text)
			} else {
				e.string(f.text)
			}
		}
		if m.replyTo != 0 {
			e.align(8)
			e.b = append(e.b, fieldReplySerial)
			e.sig("u")
			e.uint32(m.replyTo)
		}
	})
	e.align(8)
	return append(e.b, m.body...)
}

// readMessage reads one message whole.
func readMessage(r io.Reader) (message, error) {
	var head [16]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return message{}, err
	}
	body, fields := binary.LittleEndian.Uint32(head[4:]), binary.LittleEndian.Uint32(head[12:])
	if head[0] != 'l' || head[3] != 1 || body > maxMessage || fields > maxMessage {
		return message{}, fmt.Errorf("D-Bus message head %x: %w", head, fs.ErrInvalid)
	}
	padded := (int(fields) + 7) &^ 7
	buf := make([]byte, padded+int(body))
	if _, err := io.ReadFull(r, buf); err != nil {
		return message{}, err
	}
	m := message{kind: head[1], serial: binary.LittleEndian.Uint32(head[8:]), body: buf[padded:]}
	d := decoder{b: buf[:fields]}
	for !d.bad && d.at < len(d.b) {
		d.align(8)
		m.field(d.byte(), &d)
	}
	if d.bad {
		return message{}, fmt.Errorf("D-Bus message fields: %w", fs.ErrInvalid)
	}
	return m, nil
}

// field reads one header field. All fields there are have basic types.
func (m *message) field(code byte, d *decoder) {
	var text string
	var number uint32
	switch d.sig() {
	case "s", "o":
		text = d.string()
	case "g":
		text = d.sig()
	case "u":
		number = d.uint32()
	default:
		d.bad = true
	}
	switch code {
	case fieldMember:
		m.member = text
	case fieldErrorName:
		m.errorName = text
	case fieldReplySerial:
		m.replyTo = number
	case fieldSignature:
		m.signature = text
	case fieldPath:
		m.path = text
	case fieldInterface:
		m.iface = text
	case fieldDestination:
		m.dest = text
	}
}

// text is the string or path a body begins with, "" if it does not.
func (m message) text() string {
	if m.signature == "" || m.signature[0] != 's' && m.signature[0] != 'o' {
		return ""
	}
	d := decoder{b: m.body}
	return d.string()
}

// jobRemoved reads the signal's (id, job, unit, result).
func (m message) jobRemoved() (job, result string, ok bool) {
	if m.signature != "uoss" {
		return "", "", false
	}
	d := decoder{b: m.body}
	d.uint32()
	job = d.string()
	d.string()
	result = d.string()
	return job, result, !d.bad
}

// decoder takes values off a buffer; after a mistake all it gives is zero.
type decoder struct {
	b   []byte
	at  int
	bad bool
}

func (d *decoder) take(n int) []byte {
	if d.bad || n < 0 || n > len(d.b)-d.at {
		d.bad = true
		return nil
	}
	d.at += n
	return d.b[d.at-n : d.at]
}

func (d *decoder) align(n int) { d.take((n - d.at%n) % n) }

func (d *decoder) byte() byte {
	if b := d.take(1); b != nil {
		return b[0]
	}
	return 0
}

func (d *decoder) uint32() uint32 {
	d.align(4)
	if b := d.take(4); b != nil {
		return binary.LittleEndian.Uint32(b)
	}
	return 0
}

func (d *decoder) string() string {
	s := string(d.take(int(d.uint32())))
	d.take(1)
	return s
}

func (d *decoder) sig() string {
	s := string(d.take(int(d.byte())))
	d.take(1)
	return s
}
