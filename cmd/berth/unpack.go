package main

import "errors"

// unpack is the hidden command that applies one layer in a process of its own.
func unpack(std, []string) error {
	return errors.ErrUnsupported
}
