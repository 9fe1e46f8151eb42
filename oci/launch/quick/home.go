package quick

// homeOf finds the home directory of a user in the text of a passwd(5), as package inside does; false for what is refused there.
func homeOf(text string, uid uint32) (dir string, ok bool) {
	for len(text) > 0 {
		line := text
		text = ""
		for i := range len(line) {
			if line[i] == '\n' {
				line, text = line[:i], line[i+1:]
				break
			}
		}
		id, home := fields(line)
		if home == "" || !equals(id, uid) {
			continue
		}
		for i := range len(home) {
			if home[i] == 0 {
				return "", false
			}
		}
		return home, true
	}
	return "/", true
}

// fields are the third and the sixth of a line.
func fields(line string) (third, sixth string) {
	from, n := 0, 0
	for i := 0; i <= len(line); i++ {
		if i < len(line) && line[i] != ':' {
			continue
		}
		switch n {
		case 2:
			third = line[from:i]
		case 5:
			return third, line[from:i]
		}
		n++
		from = i + 1
	}
	return third, ""
}

// equals is true for plain decimal digits of that number.
func equals(s string, uid uint32) bool {
	v := uint64(0)
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
		if v = v*10 + uint64(s[i]-'0'); v > 1<<32-1 {
			return false
		}
	}
	return s != "" && uint32(v) == uid
}
