package main

import (
	"os"

	"github.com/berth-runtime/berth/oci/launch"
)

// stateRoot is where containers are kept: of a user without privileges below the directory the login made for such things.
func stateRoot() string {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" && (launch.Unprivileged() || launch.Nested()) {
		return dir + "/berth-oci"
	}
	return "/run/berth-oci"
}

// again runs the command once more by start, in a user namespace, and waits for its end.
func (a *app) again(command string, args []string, start func(argv []string) (*os.Process, error)) (int, error) {
	argv := append([]string{"berth-oci", "--inside-user-namespace"}, a.global...)
	p, err := start(append(append(argv, command), args...))
	if err != nil {
		return 1, err
	}
	return attend(p.Pid, caught()), nil
}
