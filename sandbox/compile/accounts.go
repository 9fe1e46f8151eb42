package compile

import (
	"bytes"
	"fmt"
	"strconv"
	"strings"
)

// Accounts returns passwd and group files in which the user has an entry, nil for one that needs none: the image has no such
// file, or knows the id, or it is root's. Programs look themselves up, and users of arbitrary ids are common where images are
// run by policy. env is the environment of the process; the home directory is what HOME says there.
func Accounts(u User, env []string, passwd, group []byte) (newPasswd, newGroup []byte) {
	if len(passwd) > 0 && u.UID != 0 && u.Name == "" {
		newPasswd = withLine(passwd, strconv.FormatUint(uint64(u.UID), 10), "x", strconv.FormatUint(uint64(u.UID), 10), strconv.FormatUint(uint64(u.GID), 10), "", home(env), "/sbin/nologin")
	}
	if len(group) > 0 && u.GID != 0 && !hasGroup(u.GID, group) {
		gid := strconv.FormatUint(uint64(u.GID), 10)
		newGroup = withLine(group, gid, "x", gid, "")
	}
	return newPasswd, newGroup
}

func hasGroup(gid uint32, group []byte) (found bool) {
	groupLines(group, func(_ string, g uint32, _ string) bool {
		found = g == gid
		return !found
	})
	return found
}

// withLine appends an entry of these fields. It returns nil where a field cannot be written as one, or the name is taken.
func withLine(file []byte, fields ...string) []byte {
	for _, f := range fields {
		if strings.ContainsAny(f, ":\n\r") || checkText("", f) != nil {
			return nil
		}
	}
	for line := range bytes.Lines(file) {
		if bytes.HasPrefix(line, []byte(fields[0]+":")) {
			return nil
		}
	}
	out := bytes.Clone(file)
	if out[len(out)-1] != '\n' {
		out = append(out, '\n')
	}
	return fmt.Appendln(out, strings.Join(fields, ":"))
}

// home is HOME if it can stand in passwd(5), else the root.
func home(env []string) string {
	for _, kv := range env {
		if h, ok := strings.CutPrefix(kv, "HOME="); ok && strings.HasPrefix(h, "/") && !strings.ContainsAny(h, ":\n\r") && len(h) < 4096 && checkText("", h) == nil {
			return h
		}
	}
	return "/"
}
