package quick

import "unicode/utf8"

// reader walks over a JSON text (RFC 8259). What it does not take, strings with rare escapes included, makes it bad, and the
// ordinary program finds out whether that is an error.
type reader struct {
	s   string
	i   int
	bad bool
}

// peek is the next byte that is no white space, 0 at the end.
func (p *reader) peek() byte {
	for ; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; c {
		case ' ', '\t', '\n', '\r':
		default:
			return c
		}
	}
	return 0
}

// take passes over one byte that has to be there.
func (p *reader) take(c byte) bool {
	if p.bad || p.peek() != c {
		p.bad = true
		return false
	}
	p.i++
	return true
}

// more goes to the next element of a list or object that has been opened, or passes over its end. n counts the elements.
func (p *reader) more(n *int, end byte) bool {
	if p.bad {
		return false
	}
	if p.peek() == end {
		p.i++
		return false
	}
	if *n > 0 && !p.take(',') {
		return false
	}
	*n++
	if p.peek() == end {
		p.bad = true
	}
	return !p.bad
}

// raw reads a string without escapes.
func (p *reader) raw() string {
	if !p.take('"') {
		return ""
	}
	from := p.i
	for ; p.i < len(p.s); p.i++ {
		switch c := p.s[p.i]; {
		case c == '"':
			p.i++
			return p.s[from : p.i-1]
		case c == '\\' || c < ' ' || c >= utf8.RuneSelf:
			p.bad = true
			return ""
		}
	}
	p.bad = true
	return ""
}

// key reads the name of an object's member.
func (p *reader) key() string {
	k := p.raw()
	p.take(':')
	return k
}

// number reads one that is neither negative nor has a fraction or an exponent, up to a limit.
func (p *reader) number(limit uint64) uint64 {
	p.peek()
	v, from := uint64(0), p.i
	for ; p.i < len(p.s) && p.s[p.i] >= '0' && p.s[p.i] <= '9'; p.i++ {
		d := uint64(p.s[p.i] - '0')
		if v > (limit-d)/10 {
			p.bad = true
			return 0
		}
		v = v*10 + d
	}
	if p.i == from || p.i > from+1 && p.s[from] == '0' {
		p.bad = true
	}
	if p.i < len(p.s) && (p.s[p.i] == '.' || p.s[p.i] == 'e' || p.s[p.i] == 'E') {
		p.bad = true
	}
	return v
}

// signed is number with a sign.
func (p *reader) signed(limit uint64) int {
	if p.peek() == '-' {
		p.i++
		if p.i < len(p.s) && p.s[p.i] > ' ' {
			return -int(p.number(limit))
		}
		p.bad = true
	}
	return int(p.number(limit))
}

func (p *reader) flag() bool {
	p.peek()
	if rest := p.s[p.i:]; len(rest) >= 4 && rest[:4] == "true" {
		p.i += 4
		return true
	} else if len(rest) >= 5 && rest[:5] == "false" {
		p.i += 5
		return false
	}
	p.bad = true
	return false
}

// skip passes over a value of any kind.
func (p *reader) skip() {
	depth := 0
	for !p.bad {
		switch c := p.peek(); c {
		case 0:
			p.bad = true
		case '{', '[':
			depth++
			p.i++
		case '}', ']':
			depth--
			p.i++
		case '"':
			p.skipString()
		case ',', ':':
			p.i++
			continue
		default:
			for p.i < len(p.s) && plainValue(p.s[p.i]) {
				p.i++
			}
			p.bad = p.bad || !plainValue(c)
		}
		if depth == 0 {
			return
		}
		p.bad = p.bad || depth < 0
	}
}

// plainValue tells what numbers and names of values consist of.
func plainValue(c byte) bool {
	return c >= '0' && c <= '9' || c >= 'a' && c <= 'z' || c == 'E' || c == '+' || c == '-' || c == '.'
}

func (p *reader) skipString() {
	for p.i++; p.i < len(p.s); p.i++ {
		switch p.s[p.i] {
		case '\\':
			p.i++
		case '"':
			p.i++
			return
		}
	}
	p.bad = true
}

// text reads a string into the picture's heap, with a NUL behind it, which it must not contain itself.
func (p *reader) text(m *picture) span {
	if !p.take('"') {
		return span{}
	}
	begin := m.used
	for p.i < len(p.s) && !p.bad {
		c := p.s[p.i]
		p.i++
		switch {
		case c == '"':
			at := span{begin, m.used - begin}
			if !m.push(0) || !utf8.ValidString(m.str(at)) {
				p.bad = true
			}
			return at
		case c < ' ':
			p.bad = true
		case c == '\\':
			p.escape(m)
		default:
			p.bad = !m.push(c)
		}
	}
	p.bad = true
	return span{}
}

// escape reads what follows a backslash. Characters above U+007F stand for themselves in what programs write, so those are not
// taken in this form.
func (p *reader) escape(m *picture) {
	if p.i >= len(p.s) {
		p.bad = true
		return
	}
	c := p.s[p.i]
	p.i++
	switch c {
	case '"', '\\', '/':
	case 'b':
		c = '\b'
	case 'f':
		c = '\f'
	case 'n':
		c = '\n'
	case 'r':
		c = '\r'
	case 't':
		c = '\t'
	case 'u':
		c = p.code()
	default:
		c = 0
	}
	p.bad = p.bad || c == 0 || !m.push(c)
}

// code reads four hexadecimal digits of an ASCII character; 0 for others.
func (p *reader) code() byte {
	v := 0
	for range 4 {
		if p.i >= len(p.s) {
			return 0
		}
		c := p.s[p.i]
		p.i++
		switch {
		case c >= '0' && c <= '9':
			v = v<<4 | int(c-'0')
		case c >= 'a' && c <= 'f':
			v = v<<4 | int(c-'a'+10)
		case c >= 'A' && c <= 'F':
			v = v<<4 | int(c-'A'+10)
		default:
			return 0
		}
	}
	if v >= utf8.RuneSelf {
		return 0
	}
	return byte(v)
}
