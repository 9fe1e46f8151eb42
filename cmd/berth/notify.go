package main

import (
	"log/slog"
	"net"
	"os"
	"strings"
)

// notifier speaks to the service manager, if there is one (sd_notify(3)).
type notifier struct {
	socket string
	log    *slog.Logger
}

// serviceManager takes the manager's address out of the environment, so that no child speaks in our name.
func serviceManager(log *slog.Logger) notifier {
	n := notifier{os.Getenv("NOTIFY_SOCKET"), log}
	os.Unsetenv("NOTIFY_SOCKET")
	if strings.HasPrefix(n.socket, "@") { // an abstract name (unix(7))
		n.socket = "\x00" + n.socket[1:]
	}
	return n
}

// tell sends a state such as READY=1. A manager that can't be reached is worth a warning, not the daemon.
func (n notifier) tell(state string) {
	if n.socket == "" {
		return
	}
	conn, err := net.DialUnix("unixgram", nil, &net.UnixAddr{Name: n.socket, Net: "unixgram"})
	if err == nil {
		_, err = conn.Write([]byte(state))
		conn.Close()
	}
	if err != nil {
		n.log.Warn("tell service manager", "state", state, "err", err)
	}
}
