package loop

import (
	"syscall"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// failure puts a path segment before err and keeps the errno at its root, in the form that crosses the wire.
func failure(segment string, err error) *wire.Error {
	e := &wire.Error{Text: segment + ": " + err.Error()}
	switch c := err.(type) {
	case syscall.Errno:
		e.Errno = c
	case *wire.Error:
		e.Errno = c.Errno
	}
	return e
}

// refusal is an error of our own.
func refusal(text string, errno syscall.Errno) *wire.Error {
	return &wire.Error{Text: text, Errno: errno}
}

// asError gives err the form that crosses the wire.
func asError(err error) *wire.Error {
	if e, ok := err.(*wire.Error); ok {
		return e
	}
	e := &wire.Error{Text: err.Error()}
	e.Errno, _ = err.(syscall.Errno)
	return e
}
