package fuzz

import (
	"math"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
)

// source makes messages. Its memory holds ids and the like, so that requests reach what exists.
type source struct {
	*rand.Rand
	known func(field string) []string // values that mean something in a string field of this name
	dir   string                      // absolute paths lead below it
}

// invalid stands for bytes that are no UTF-8 until the message is encoded: the library refuses to encode them.
const invalid, bytesForIt = "QzQzQzQz", "\xff\xfe\xc0\x80\xed\xa0\x80\xf5"

// hostile are strings that some layer below takes for something else than a name.
func (s *source) hostile() string {
	words := []string{
		"", ".", "..", "../../../../../../../../" + s.dir + "/escaped", s.dir + "/../escaped", "/", "//", "a/b", "a/../b", "/proc/self/exe", "/proc/self/fd/0",
		"\x00", "a\x00b", "\n", "a\nb: c", "\r\n", "\t", " ", "a b", "%s%n%d", "$(touch " + s.dir + "/escaped)", "`id`", "'\"\\", "{{.}}", "-", "--root=/", "-rf",
		"\u202e\u0000", "\u00e4\u0308", "null", "true", "-1", "0x7fffffffffffffff", "unix:///", "localhost/", "http://[::1]:1/", "sha256:", "sha256:" + strings.Repeat("0", 64),
		"@", "a@b:c/d", ":", "=", "a=b", ",", "system.slice", "a.slice:b:c", "../x.slice", "Localhost", "unconfined", "max", "99999999999999999999",
		invalid, "a" + invalid + "b", strings.Repeat("a", 255), strings.Repeat("b", 256), strings.Repeat("../", 1365), strings.Repeat("n", 4096), "/" + strings.Repeat("d/", 2047),
	}
	return words[s.IntN(len(words))]
}

func (s *source) string(name string) string {
	if known := s.known(name); len(known) > 0 && s.IntN(3) > 0 {
		v := known[s.IntN(len(known))]
		if len(v) > 12 && s.IntN(8) == 0 {
			return v[:s.IntN(13)] // a prefix of an id
		}
		return v
	}
	switch s.IntN(3) {
	case 0:
		return s.hostile()
	case 1:
		return s.hostile() + s.hostile()
	}
	return string(rune('a' + s.IntN(26)))
}

func (s *source) integer() int64 {
	all := []int64{0, 0, 1, 1, 2, 100, 1000, 65535, 65536, 1 << 20, -1, -2, math.MaxInt32, math.MinInt32, math.MaxUint32, math.MaxInt64, math.MinInt64}
	return all[s.IntN(len(all))]
}

// scalar makes a value of a field that is no message.
func (s *source) scalar(f protoreflect.FieldDescriptor) protoreflect.Value {
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(s.IntN(2) == 0)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(s.string(string(f.Name())))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte(s.hostile()))
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		if s.IntN(3) == 0 {
			return protoreflect.ValueOfEnum(protoreflect.EnumNumber(int32(s.integer())))
		}
		return protoreflect.ValueOfEnum(values.Get(s.IntN(values.Len())).Number())
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(s.integer()))
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(uint32(s.integer()))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(s.integer())
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(uint64(s.integer()))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(s.integer()))
	}
	return protoreflect.ValueOfFloat64(float64(s.integer()))
}

// many is how long a list becomes.
func (s *source) many() int {
	switch s.IntN(40) {
	case 0:
		return 300
	case 1, 2:
		return 20
	}
	return s.IntN(3)
}

// set gives a field a new value.
func (s *source) set(m protoreflect.Message, f protoreflect.FieldDescriptor, depth int) {
	value := func(f protoreflect.FieldDescriptor, fresh func() protoreflect.Value) protoreflect.Value {
		if f.Message() == nil {
			return s.scalar(f)
		}
		v := fresh()
		s.fill(v.Message(), depth-1)
		return v
	}
	switch {
	case f.IsMap():
		kv := m.Mutable(f).Map()
		for range s.many() {
			k := s.scalar(f.MapKey()).MapKey()
			kv.Set(k, value(f.MapValue(), kv.NewValue))
		}
	case f.IsList():
		l := m.Mutable(f).List()
		for range s.many() {
			l.Append(value(f, l.NewElement))
		}
	case f.Message() != nil:
		if s.IntN(8) > 0 {
			s.fill(m.Mutable(f).Message(), depth-1)
		} else {
			m.Set(f, m.NewField(f)) // there, and empty
		}
	default:
		m.Set(f, s.scalar(f))
	}
}

// fill gives each field a value, or not.
func (s *source) fill(m protoreflect.Message, depth int) {
	fields := m.Descriptor().Fields()
	for i := range fields.Len() {
		if f := fields.Get(i); s.IntN(3) > 0 && (depth > 0 || f.Message() == nil) {
			s.set(m, f, depth)
		}
	}
}

// spoil changes one field anywhere in a message that is good otherwise.
func (s *source) spoil(m protoreflect.Message) {
	fields := m.Descriptor().Fields()
	if fields.Len() == 0 {
		return
	}
	f := fields.Get(s.IntN(fields.Len()))
	if f.Message() != nil && !f.IsMap() && !f.IsList() && m.Has(f) && s.IntN(5) > 0 {
		s.spoil(m.Mutable(f).Message())
		return
	}
	if s.IntN(10) == 0 {
		m.Clear(f)
		return
	}
	s.set(m, f, 4)
}

// encode gives the wire form, with what no library encodes.
func (s *source) encode(m proto.Message) ([]byte, error) {
	b, err := proto.Marshal(m)
	if err != nil {
		return nil, err
	}
	b = []byte(strings.ReplaceAll(string(b), invalid, bytesForIt))
	switch s.IntN(30) {
	case 0: // a field of a later version
		b = protowire.AppendTag(b, protowire.Number(1000+s.IntN(1000)), protowire.BytesType)
		b = protowire.AppendBytes(b, []byte(s.hostile()))
	case 1: // a broken message
		if len(b) > 0 {
			b[s.IntN(len(b))] ^= byte(1 << s.IntN(8))
		}
	case 2:
		b = b[:s.IntN(len(b)+1)]
	case 3: // nesting without end
		for range 1000 {
			b = append(protowire.AppendVarint([]byte{0x0a}, uint64(len(b))), b...)
		}
	}
	return b, nil
}
