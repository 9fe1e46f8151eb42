package wire

import (
	"strconv"
	"unicode/utf8"
)

// writer puts JSON together. Methods with a key write a member; those whose name begins with must do so for zero values too.
type writer struct {
	b    []byte
	more bool // a comma is due before what comes next
}

// key begins a member; "" begins an element or the whole.
func (w *writer) key(key string) {
	if w.more {
		w.b = append(w.b, ',')
	}
	if key != "" {
		w.b = append(append(append(w.b, '"'), key...), '"', ':')
	}
	w.more = false
}

func (w *writer) open(key string, bracket byte) {
	w.key(key)
	w.b = append(w.b, bracket)
}

func (w *writer) close(bracket byte) {
	w.b = append(w.b, bracket)
	w.more = true
}

func (w *writer) mustInt(key string, v int64) {
	w.key(key)
	w.b = strconv.AppendInt(w.b, v, 10)
	w.more = true
}

func (w *writer) mustUint(key string, v uint64) {
	w.key(key)
	w.b = strconv.AppendUint(w.b, v, 10)
	w.more = true
}

func (w *writer) int(key string, v int64) {
	if v != 0 {
		w.mustInt(key, v)
	}
}

func (w *writer) uint(key string, v uint64) {
	if v != 0 {
		w.mustUint(key, v)
	}
}

func (w *writer) flag(key string, v bool) {
	if v {
		w.key(key)
		w.b = append(w.b, "true"...)
		w.more = true
	}
}

func (w *writer) str(key, v string) {
	if v != "" {
		w.mustStr(key, v)
	}
}

func (w *writer) strs(key string, v []string) {
	if len(v) == 0 {
		return
	}
	w.open(key, '[')
	for _, s := range v {
		w.mustStr("", s)
	}
	w.close(']')
}

// mustStr writes a string; what needs no escape is copied in one go.
func (w *writer) mustStr(key, v string) {
	const hex = "0123456789abcdef"
	w.key(key)
	w.b = append(w.b, '"')
	start := 0
	for i := range len(v) {
		c := v[i]
		if c >= ' ' && c != '"' && c != '\\' {
			continue
		}
		w.b = append(w.b, v[start:i]...)
		start = i + 1
		switch c {
		case '"', '\\':
			w.b = append(w.b, '\\', c)
		case '\n':
			w.b = append(w.b, '\\', 'n')
		case '\t':
			w.b = append(w.b, '\\', 't')
		default:
			w.b = append(w.b, '\\', 'u', '0', '0', hex[c>>4], hex[c&15])
		}
	}
	w.b = append(append(w.b, v[start:]...), '"')
	w.more = true
}

// maxDepth bounds the nesting of what is passed over.
const maxDepth = 32

// reader takes JSON apart. After the first thing that is not as it should be, bad is set, and everything reads as zero. null
// reads as zero too.
type reader struct {
	b     []byte
	i     int
	depth int
	bad   bool
}

func (r *reader) fail() { r.bad, r.i = true, len(r.b) }

// space passes over white space and gives the next byte, 0 at the end.
func (r *reader) space() byte {
	for ; r.i < len(r.b); r.i++ {
		switch r.b[r.i] {
		case ' ', '\t', '\n', '\r':
		default:
			return r.b[r.i]
		}
	}
	return 0
}

// take passes over a byte if it is the next.
func (r *reader) take(c byte) bool {
	if r.space() != c || r.i >= len(r.b) {
		return false
	}
	r.i++
	return true
}

// word passes over a literal if it is the next.
func (r *reader) word(s string) bool {
	r.space()
	if len(r.b)-r.i < len(s) || string(r.b[r.i:r.i+len(s)]) != s {
		return false
	}
	r.i += len(s)
	return true
}

// object calls member for each key; member has to read the value.
func (r *reader) object(member func(key []byte)) {
	r.list('{', '}', func() {
		key := r.bytes()
		if !r.take(':') {
			r.fail()
			return
		}
		member(key)
	})
}

// array calls element for each element; element has to read it.
func (r *reader) array(element func()) { r.list('[', ']', element) }

func (r *reader) list(first, last byte, item func()) {
	if r.word("null") {
		return
	}
	if r.depth++; !r.take(first) || r.depth > maxDepth {
		r.fail()
		return
	}
	for n := 0; !r.take(last); n++ {
		if n > 0 && !r.take(',') || r.bad {
			r.fail()
			return
		}
		item()
	}
	r.depth--
}

func (r *reader) strs() []string {
	var v []string
	r.array(func() {
		if v == nil {
			v = make([]string, 0, 32) // most have a few; growing there would cost as much again
		}
		v = append(v, r.str())
	})
	return v
}

func (r *reader) flag() bool {
	switch {
	case r.word("true"):
		return true
	case r.word("false"), r.word("null"):
	default:
		r.fail()
	}
	return false
}

// int reads an integer of 64 bits.
func (r *reader) int() int {
	if r.take('-') {
		if v := r.uint(1 << 63); v != 0 {
			return int(-int64(v-1) - 1)
		}
		return 0
	}
	return int(r.uint(1<<63 - 1))
}

// uint reads an integer that is not negative nor above limit. Fractions and exponents are refused, as nothing here has any.
func (r *reader) uint(limit uint64) uint64 {
	if r.word("null") {
		return 0
	}
	r.space()
	v, start := uint64(0), r.i
	for ; r.i < len(r.b) && r.b[r.i] >= '0' && r.b[r.i] <= '9'; r.i++ {
		d := uint64(r.b[r.i] - '0')
		if v > (limit-d)/10 {
			r.fail()
			return 0
		}
		v = v*10 + d
	}
	if r.i == start || r.i < len(r.b) && (r.b[r.i] == '.' || r.b[r.i] == 'e' || r.b[r.i] == 'E') {
		r.fail()
		return 0
	}
	return v
}

// str reads a string.
func (r *reader) str() string { return string(r.bytes()) }

// bytes reads a string. Without escapes in it, the result is a part of r.b.
func (r *reader) bytes() []byte {
	if r.word("null") {
		return nil
	}
	if !r.take('"') {
		r.fail()
		return nil
	}
	start := r.i
	for ; r.i < len(r.b); r.i++ {
		switch c := r.b[r.i]; {
		case c == '"':
			r.i++
			return r.b[start : r.i-1]
		case c == '\\':
			return r.escaped(append([]byte(nil), r.b[start:r.i]...))
		case c < ' ':
			r.fail()
			return nil
		}
	}
	r.fail()
	return nil
}

// escaped reads the rest of a string from its first backslash on.
func (r *reader) escaped(out []byte) []byte {
	for r.i < len(r.b) {
		c := r.b[r.i]
		r.i++
		switch {
		case c == '"':
			return out
		case c < ' ':
			r.fail()
		case c != '\\':
			out = append(out, c)
		default:
			out = r.escape(out)
		}
	}
	r.fail()
	return nil
}

// escape reads what follows a backslash.
func (r *reader) escape(out []byte) []byte {
	if r.i >= len(r.b) {
		return out
	}
	c := r.b[r.i]
	r.i++
	switch c {
	case '"', '\\', '/':
		return append(out, c)
	case 'n':
		return append(out, '\n')
	case 't':
		return append(out, '\t')
	case 'r':
		return append(out, '\r')
	case 'b':
		return append(out, '\b')
	case 'f':
		return append(out, '\f')
	case 'u':
		return utf8.AppendRune(out, r.code())
	}
	r.fail()
	return out
}

// code reads the four digits of an escape, or eight where two stand for one character.
func (r *reader) code() rune {
	first := r.hex4()
	if first < 0xd800 || first >= 0xdc00 {
		return first // AppendRune makes U+FFFD of a lone second half
	}
	if len(r.b)-r.i >= 6 && r.b[r.i] == '\\' && r.b[r.i+1] == 'u' {
		at := r.i
		r.i += 2
		if second := r.hex4(); second >= 0xdc00 && second < 0xe000 {
			return 0x10000 + (first-0xd800)<<10 + (second - 0xdc00)
		}
		if !r.bad {
			r.i = at
		}
	}
	return utf8.RuneError
}

func (r *reader) hex4() rune {
	if len(r.b)-r.i < 4 {
		r.fail()
		return 0
	}
	v, err := strconv.ParseUint(string(r.b[r.i:r.i+4]), 16, 16)
	if err != nil {
		r.fail()
		return 0
	}
	r.i += 4
	return rune(v)
}

// skip passes over a value of any kind.
func (r *reader) skip() {
	switch c := r.space(); {
	case c == '{':
		r.object(func([]byte) { r.skip() })
	case c == '[':
		r.array(r.skip)
	case c == '"':
		r.bytes()
	case r.word("true"), r.word("false"), r.word("null"):
	default:
		r.number()
	}
}

// number passes over a number that nobody wants, with whatever a number may have.
func (r *reader) number() {
	start := r.i
	for ; r.i < len(r.b); r.i++ {
		switch c := r.b[r.i]; {
		case c >= '0' && c <= '9', c == '-', c == '+', c == '.', c == 'e', c == 'E':
			continue
		}
		break
	}
	if r.i == start {
		r.fail()
	}
}
