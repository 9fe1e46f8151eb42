package main

import (
	"archive/tar"
	"strings"

	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// How an image is wrapped, so that a runtime meets every combination registries serve.
type wrapping int

const (
	dockerPlain   wrapping = iota // Docker manifest, gzip
	dockerList                    // Docker manifest list with entries for platforms that are not there
	ociZstd                       // OCI manifest, zstd
	ociIndex                      // OCI index with such entries; gzip, then zstd, then plain layers
	ociMixedTypes                 // OCI manifest whose layers have Docker's media types, some uncompressed
)

// image is one recipe: layers from bottom to top, under one or more names.
type image struct {
	refs   []string
	wrap   wrapping
	layers [][]file
	config v1.ImageConfig
}

const (
	e2e     = "registry.k8s.io/e2e-test-images/"
	staging = "gcr.io/k8s-staging-cri-tools/"
	ecr     = "public.ecr.aws/docker/library/"
)

const passwd = `root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
`

const group = `root:x:0:
daemon:x:1:
tty:x:5:
www-data:x:33:
nogroup:x:65534:
`

// Debian's busybox lacks these two.
const pgrep = "#!/bin/sh\n# pgrep NAME\npidof \"$1\" | tr ' ' '\\n' | grep .\n"
const ipcs = "#!/bin/sh\n# ipcs [-m]\ncat /proc/sysvipc/shm\n"

// nginxConf logs to the container's own streams and keeps the names critest looks for.
func nginxConf(port string) string {
	return strings.ReplaceAll(`worker_processes 1;
user www-data;
pid /var/run/nginx.pid;
error_log /dev/stderr notice;
events { worker_connections 256; }
http {
	include mime.types;
	access_log /dev/stdout;
	server {
		listen PORT;
		root /usr/share/nginx/html;
		index index.html;
	}
}
`, "PORT", port)
}

const page = "<!DOCTYPE html>\n<html><head><title>Welcome to nginx!</title></head><body><h1>Welcome to nginx!</h1></body></html>\n"

// recipes is the whole set. What each image must have for critest is said beside it.
func recipes(p parts) []image {
	path := []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
	base := p.busyboxFiles()
	shell := v1.ImageConfig{Env: path, Cmd: []string{"sh"}}
	// A file and a directory that upper layers take away again: a runtime that ignores whiteouts shows them.
	litter := append(dirs("/litter", "/opaque"), text("/litter/file", "below\n"), text("/opaque/below", "below\n"))
	sweep := append(dirs("/opaque"), text("/.wh.litter", ""), text("/opaque/.wh..wh..opq", ""), text("/opaque/above", "above\n"))
	set := []image{
		{refs: []string{e2e + "busybox:1.29-2", "docker.io/library/busybox:latest", "docker.io/library/busybox:1.35"}, wrap: ociIndex,
			layers: [][]file{base, litter, sweep}, config: shell},
		// Port 80, pid in /var/run/nginx.pid, process titles.
		{refs: []string{e2e + "nginx:1.14-2", e2e + "nginx:1.15-4", "docker.io/library/nginx:latest", "docker.io/library/nginx:1.22"}, wrap: dockerList,
			layers: [][]file{base, p.nginxFiles("80")}, config: nginxConfig(path, "80")},
		{refs: []string{staging + "hostnet-nginx-" + p.arch + ":latest"}, wrap: ociZstd,
			layers: [][]file{base, p.nginxFiles("12003")}, config: nginxConfig(path, "12003")},
		// Port 80, the word httpd in the log.
		{refs: []string{e2e + "httpd:2.4.39-4"}, wrap: ociZstd,
			layers: [][]file{base, append(dirs("/www"), text("/www/index.html", "<html><body><h1>It works!</h1></body></html>\n"))},
			config: v1.ImageConfig{Env: path, Cmd: []string{"sh", "-c", "echo httpd: serving /www; exec httpd -f -vv -p 80 -h /www"}}},
		// A set-user-ID program of root's that prints its effective user.
		{refs: []string{e2e + "nonewprivs:1.3", e2e + "nonewprivs:1.4"}, wrap: dockerPlain,
			layers: [][]file{base, {{name: "/nnp", mode: 0o4755, data: p.nonewprivs}}},
			config: v1.ImageConfig{Env: path, Entrypoint: []string{"/nnp"}}},
		{refs: []string{"registry.k8s.io/pause:3.9", "registry.k8s.io/pause:3.10.2", "k8s.gcr.io/pause:3.9"}, wrap: dockerPlain,
			layers: [][]file{{{name: "/pause", mode: 0o755, data: p.pause}}},
			config: v1.ImageConfig{Env: path, Entrypoint: []string{"/pause"}, User: "65535:65535"}},
		// The user belongs to the second group by the image's /etc/group alone.
		{refs: []string{staging + "test-image-predefined-group:latest"}, wrap: ociZstd,
			layers: [][]file{base, {
				text("/etc/passwd", passwd+"default-user:x:1000:1000:default-user:/home/default-user:/bin/sh\n"),
				text("/etc/group", group+"default-user:x:1000:\ngroup-defined-in-image:x:50000:default-user\n"),
			}},
			config: v1.ImageConfig{Env: path, Cmd: []string{"sh"}, User: "1000"}},
		// Everything that a runtime takes from an image's configuration; volumes that lead out, over links, and nowhere.
		{refs: []string{e2e + "configured:1"}, wrap: ociIndex,
			layers: [][]file{base, append(dirs("/data/sub", "/covered", "/real/place"),
				file{name: "/data", mode: 0o1770, kind: tar.TypeDir, uid: 33},
				file{name: "/data/file", mode: 0o640, uid: 33, data: []byte("from the image\n")},
				file{name: "/data/fifo", mode: 0o600, kind: tar.TypeFifo},
				file{name: "/data/out", kind: tar.TypeSymlink, link: "/../../../../etc/hostname"},
				text("/data/gone", "below\n"), text("/real/place/here", "by link\n"),
				file{name: "/hop", kind: tar.TypeSymlink, link: "hop2"}, file{name: "/hop2", kind: tar.TypeSymlink, link: "/../../real/place"},
				text("/covered/image", "hidden\n")), {text("/data/.wh.gone", "")}},
			config: v1.ImageConfig{Env: append([]string{"FROM_IMAGE=1", "BOTH=image"}, path...), Entrypoint: []string{"/bin/sh", "-c"},
				Cmd: []string{"echo by default; pwd; sleep 1000"}, WorkingDir: "/not/in/the/image", StopSignal: "SIGUSR1",
				Volumes: map[string]struct{}{"/data": {}, "/hop": {}, "/../../../fresh": {}, "/covered": {}}}},
		// One image under three tags.
		{refs: []string{staging + "test-image-tags:1", staging + "test-image-tags:2", staging + "test-image-tags:3"}, wrap: ociIndex,
			layers: [][]file{base, {text("/name", "tags\n")}}, config: shell},
	}
	for name, user := range map[string]string{"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"} {
		set = append(set, image{refs: []string{staging + "test-image-user-" + name + ":latest"}, wrap: dockerPlain,
			layers: [][]file{base, {text("/name", "user-"+name+"\n")}}, config: v1.ImageConfig{Env: path, Cmd: []string{"sh"}, User: user}})
	}
	// Images that must differ from each other in nothing but being different.
	for ref, wrap := range map[string]wrapping{
		staging + "test-image-latest:latest": ociMixedTypes, staging + "test-image-1:latest": dockerPlain,
		staging + "test-image-2:latest": ociMixedTypes, staging + "test-image-3:latest": ociZstd,
		staging + "test-image-tag:test": dockerList, staging + "test-image-tag:all": ociIndex,
		staging + "test-image-digest:latest": dockerPlain,
		ecr + "busybox:1.35.0-glibc":         dockerList, ecr + "busybox:1-uclibc": dockerPlain,
		ecr + "busybox:1": ociZstd, ecr + "busybox:1-glibc": ociIndex, ecr + "busybox:1-musl": ociMixedTypes,
	} {
		set = append(set, image{refs: []string{ref}, wrap: wrap, layers: [][]file{base, {text("/name", ref+"\n")}}, config: shell})
	}
	return set
}

func nginxConfig(env []string, port string) v1.ImageConfig {
	return v1.ImageConfig{Env: env, Cmd: []string{"nginx", "-g", "daemon off;"}, StopSignal: "SIGQUIT", ExposedPorts: map[string]struct{}{port + "/tcp": {}}}
}

// absent are the platforms an index lists without having them: whoever picks the wrong entry gets a 404.
func absent() []v1.Platform {
	return []v1.Platform{{OS: "windows", Architecture: "amd64", OSVersion: "10.0.20348.169"}, {OS: "linux", Architecture: "s390x"}}
}

func versioned() specs.Versioned { return specs.Versioned{SchemaVersion: 2} }

func text(name, s string) file {
	return file{name: name, mode: 0o644, data: []byte(s)}
}

func dirs(names ...string) []file {
	var out []file
	for _, n := range names {
		out = append(out, file{name: n, mode: 0o755, kind: tar.TypeDir})
	}
	return out
}
