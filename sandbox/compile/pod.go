package compile

import (
	"bytes"
	"path"
	"strings"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// cgroupPrefix opens the names of systemd scopes.
const cgroupPrefix = "berth"

// CgroupsPath is the OCI cgroupsPath of a container or pod with this id below
// the pod's cgroup_parent: "slice:berth:id" for the systemd driver, whose slice
// is the last part of parent, else "parent/id". The id ends the path, which is
// how monitoring tools find it. An empty parent is system.slice or "/berth". A
// parent of the other driver's form is refused: it means that kubelet and
// runtime disagree on the driver.
func CgroupsPath(parent, id string, systemd bool) (string, error) {
	const field = "linux.cgroup_parent"
	if id == "" {
		return "", invalid("id", "is empty")
	}
	if err := first(checkSteps(field, parent), checkText(field, parent), checkName("id", id)); err != nil {
		return "", err
	}
	slice := strings.HasSuffix(path.Clean(parent), ".slice")
	switch {
	case systemd && parent == "":
		return "system.slice:" + cgroupPrefix + ":" + id, nil
	case systemd && !slice:
		return "", invalid(field, "%q is not a slice, which the systemd driver needs", parent)
	case systemd:
		name := path.Base(parent)
		if strings.Contains(name, ":") || strings.HasPrefix(name, "-") || strings.Contains(name, "--") || name == ".slice" {
			return "", invalid(field, "%q is not the name of a slice", name)
		}
		return name + ":" + cgroupPrefix + ":" + id, nil
	case slice:
		return "", invalid(field, "%q is a slice, which the cgroupfs driver does not know", parent)
	case parent == "":
		parent = cgroupPrefix
	}
	return path.Join("/", parent, id), nil
}

// Resolv is the content of a pod's resolv.conf: the host's file for a pod without
// a DNS config, else exactly that config, which may be nothing at all. Words with
// white space in them, which CheckPod refuses, are left out.
func Resolv(dns *rt.DNSConfig, host []byte) []byte {
	if dns == nil {
		return bytes.Clone(host)
	}
	var b bytes.Buffer
	line := func(key string, words []string) {
		var good []string
		for _, w := range words {
			if isWord(w) {
				good = append(good, w)
			}
		}
		if len(good) > 0 {
			b.WriteString(key + " " + strings.Join(good, " ") + "\n")
		}
	}
	line("search", dns.GetSearches())
	for _, s := range dns.GetServers() {
		line("nameserver", []string{s})
	}
	line("options", dns.GetOptions())
	return b.Bytes()
}

// isWord: one word without blanks and control characters.
func isWord(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == 0x7f })
}
