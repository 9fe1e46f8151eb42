package compile

import (
	"io/fs"
	"strings"
)

// fieldError is a refusal: the field in the words of the CRI, and why. It is
// fs.ErrInvalid to errors.Is; the class is not part of the text, since kubelet
// shows the text to people.
type fieldError struct{ field, why string }

func (e *fieldError) Error() string { return e.field + ": " + e.why }
func (e *fieldError) Unwrap() error { return fs.ErrInvalid }

// within puts the fields of err below a parent field: within("linux", "x: why")
// is "linux.x: why". Other errors pass.
func within(parent string, err error) error {
	if fe, ok := err.(*fieldError); ok {
		return &fieldError{parent + "." + fe.field, fe.why}
	}
	return err
}

// first returns the first error.
func first(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// checkName refuses what may not become one component of a path. Empty passes.
func checkName(field, s string) error {
	switch {
	case s == "." || strings.Contains(s, ".."):
		return invalid(field, "%q holds a path step", s)
	case strings.Contains(s, "/"):
		return invalid(field, "%q holds a slash", s)
	case len(s) > 255:
		return invalid(field, "%d bytes, more than 255", len(s))
	}
	return checkText(field, s)
}

// checkText refuses control characters: NUL ends a C string, and a line break
// begins a new line in every file a name may be written to.
func checkText(field, s string) error {
	for _, r := range s {
		if r < 0x20 || r == 0x7f {
			return invalid(field, "%q holds a control character", s)
		}
	}
	return nil
}

// checkNUL refuses what can't be passed to the kernel as a string.
func checkNUL(field, s string) error {
	if strings.IndexByte(s, 0) >= 0 {
		return invalid(field, "%q holds a NUL byte", s)
	}
	return nil
}

// checkPath refuses a path that is not absolute or that climbs.
func checkPath(field, p string) error {
	if !strings.HasPrefix(p, "/") {
		return invalid(field, "%q is not absolute", p)
	}
	return first(checkSteps(field, p), checkNUL(field, p))
}

func checkSteps(field, p string) error {
	for step := range strings.SplitSeq(p, "/") {
		if step == ".." {
			return invalid(field, "%q climbs with \"..\"", p)
		}
	}
	return nil
}
