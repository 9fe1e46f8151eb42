package compile

import (
	"bytes"
	"fmt"
	"slices"
	"strconv"
	"strings"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// MaxAccounts is the size in bytes up to which ResolveUser reads a passwd or
// group file: the bound to hand to whatever reads them out of the image.
const MaxAccounts = 4 << 20

// maxID is the highest id: 2^32-1 is "no change" to setresuid(2).
const maxID = 1<<32 - 2

// User is who a container's process is. Groups are all additional gids, the
// primary first, as `id` in the container prints them.
type User struct {
	UID, GID uint32
	Groups   []uint32
	Name     string // from the image's passwd; "" when it has no such uid
	Home     string // from the image's passwd; "/" when it has no such uid
}

// ResolveUser finds out who a container runs as: run_as_user or run_as_username,
// else the image's User, else root. passwd and group are the image's files, nil
// when it has none. A string in the syntax of a number is a number or an error;
// it is never looked up as a name.
func ResolveUser(cc *rt.ContainerConfig, img ImageConfig, passwd, group []byte) (User, error) {
	const field = "linux.security_context."
	sc := cc.GetLinux().GetSecurityContext()
	if err := within("linux.security_context", checkIdentity(sc)); err != nil {
		return User{}, err
	}
	if len(passwd) > MaxAccounts || len(group) > MaxAccounts {
		return User{}, invalid("image", "passwd or group is larger than %d bytes", MaxAccounts)
	}
	var u User
	var err error
	switch {
	case sc.GetRunAsUser() != nil:
		u = userByID(uint32(sc.GetRunAsUser().GetValue()), passwd)
	case sc.GetRunAsUsername() != "":
		u, err = findUser(field+"run_as_username", sc.GetRunAsUsername(), passwd)
	default:
		u, err = imageUser(img.User, passwd, group)
	}
	if err != nil {
		return User{}, err
	}
	if g := sc.GetRunAsGroup(); g != nil {
		u.GID = uint32(g.GetValue())
	}
	u.Groups = groups(u, sc, group)
	return u, nil
}

// checkIdentity refuses contradictions and ids outside the kernel's range.
func checkIdentity(sc *rt.LinuxContainerSecurityContext) error {
	user, name, group := sc.GetRunAsUser(), sc.GetRunAsUsername(), sc.GetRunAsGroup()
	switch {
	case user != nil && name != "":
		return invalid("run_as_username", "run_as_user is set too")
	case group != nil && user == nil && name == "":
		return invalid("run_as_group", "needs run_as_user or run_as_username")
	}
	if name != "" {
		if _, numeric, err := parseID("run_as_username", name); numeric && err != nil {
			return err
		}
	}
	return first(
		checkID("run_as_user", user),
		checkID("run_as_group", group),
		checkGroups(sc.GetSupplementalGroups(), sc.GetSupplementalGroupsPolicy()),
		checkText("run_as_username", name),
	)
}

func checkID(field string, id *rt.Int64Value) error {
	if id != nil && (id.GetValue() < 0 || id.GetValue() > maxID) {
		return invalid(field, "%d is out of range", id.GetValue())
	}
	return nil
}

func checkGroups(gids []int64, policy rt.SupplementalGroupsPolicy) error {
	for _, g := range gids {
		if err := checkID("supplemental_groups", &rt.Int64Value{Value: g}); err != nil {
			return err
		}
	}
	if policy != rt.SupplementalGroupsPolicy_Merge && policy != rt.SupplementalGroupsPolicy_Strict {
		return invalid("supplemental_groups_policy", "unknown policy %d", policy)
	}
	return nil
}

// parseID reads an id. numeric says that s has the syntax of a number: digits
// with or without a sign.
func parseID(field, s string) (id uint32, numeric bool, err error) {
	digits := strings.TrimLeft(s, "+-")
	if digits == "" || strings.Trim(digits, "0123456789") != "" {
		return 0, false, nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil || n > maxID {
		return 0, true, invalid(field, "%q is not an id between 0 and %d", s, uint32(maxID))
	}
	return uint32(n), true, nil
}

// imageUser reads the forms of an image's User: "", "user", "user:group", each
// side a name or an id.
func imageUser(s string, passwd, group []byte) (User, error) {
	const field = "image.config.user"
	name, grp, hasGroup := strings.Cut(s, ":")
	if err := checkText(field, s); err != nil {
		return User{}, err
	}
	u := userByID(0, passwd)
	var err error
	if name != "" {
		if u, err = findUser(field, name, passwd); err != nil {
			return User{}, err
		}
	}
	if !hasGroup || grp == "" {
		return u, nil
	}
	gid, numeric, err := parseID(field, grp)
	if err != nil {
		return User{}, err
	}
	if !numeric {
		var ok bool
		if gid, ok = groupByName(grp, group); !ok {
			return User{}, invalid(field, "group %q is not in the image's /etc/group", grp)
		}
	}
	u.GID = gid
	return u, nil
}

// findUser resolves a name or an id.
func findUser(field, s string, passwd []byte) (User, error) {
	id, numeric, err := parseID(field, s)
	if err != nil {
		return User{}, err
	}
	if numeric {
		return userByID(id, passwd), nil
	}
	for u := range users(passwd) {
		if u.Name == s {
			return u, nil
		}
	}
	return User{}, invalid(field, "user %q is not in the image's /etc/passwd", s)
}

func userByID(id uint32, passwd []byte) User {
	for u := range users(passwd) {
		if u.UID == id {
			return u
		}
	}
	return User{UID: id, Home: "/"}
}

// users yields the well-formed lines of a passwd(5) file; others do not exist.
func users(passwd []byte) func(func(User) bool) {
	return func(yield func(User) bool) {
		for line := range bytes.Lines(passwd) {
			f := strings.Split(strings.TrimRight(string(line), "\r\n"), ":")
			if len(f) < 4 || f[0] == "" || checkText("", string(bytes.TrimRight(line, "\r\n"))) != nil {
				continue
			}
			uid, ok1, err1 := parseID("", f[2])
			gid, ok2, err2 := parseID("", f[3])
			if !ok1 || !ok2 || err1 != nil || err2 != nil {
				continue
			}
			u := User{UID: uid, GID: gid, Name: f[0], Home: "/"}
			if len(f) > 5 && strings.HasPrefix(f[5], "/") {
				u.Home = f[5]
			}
			if !yield(u) {
				return
			}
		}
	}
}

// groupLines yields name, gid and members of each well-formed line of a group(5) file.
func groupLines(group []byte, yield func(name string, gid uint32, members string) bool) {
	for line := range bytes.Lines(group) {
		f := strings.SplitN(strings.TrimRight(string(line), "\r\n"), ":", 4)
		if len(f) < 3 || f[0] == "" {
			continue
		}
		gid, ok, err := parseID("", f[2])
		if !ok || err != nil {
			continue
		}
		f = append(f, "")
		if !yield(f[0], gid, f[3]) {
			return
		}
	}
}

func groupByName(name string, group []byte) (gid uint32, found bool) {
	groupLines(group, func(n string, g uint32, _ string) bool {
		if n == name {
			gid, found = g, true
		}
		return !found
	})
	return gid, found
}

// groups lists all gids of the process: the primary, with policy Merge those the
// image's group file gives the user, and the request's.
func groups(u User, sc *rt.LinuxContainerSecurityContext, group []byte) []uint32 {
	gids := []uint32{u.GID}
	seen := map[uint32]bool{u.GID: true}
	add := func(g uint32) {
		if !seen[g] {
			seen[g] = true
			gids = append(gids, g)
		}
	}
	if sc.GetSupplementalGroupsPolicy() == rt.SupplementalGroupsPolicy_Merge && u.Name != "" {
		groupLines(group, func(_ string, g uint32, members string) bool {
			if slices.Contains(strings.Split(members, ","), u.Name) {
				add(g)
			}
			return true
		})
	}
	for _, g := range sc.GetSupplementalGroups() {
		add(uint32(g))
	}
	return gids
}

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
