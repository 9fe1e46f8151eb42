package main

import (
	"os"

	"github.com/berth-runtime/berth/image/layer"
)

// unpack is the hidden command that applies one layer in a process of its own. Its exit code is part of how it talks
// to the daemon.
func unpack(_ std, args []string) error {
	os.Exit(layer.UnpackMain(args))
	return nil
}
