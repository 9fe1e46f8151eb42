package main

import (
	"archive/tar"
	"bytes"
	"debug/elf"
	_ "embed"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
)

//go:embed payload/pause.go.txt
var pauseSource []byte

//go:embed payload/nonewprivs.go.txt
var nonewprivsSource []byte

// packages are fetched as they are in the machine's Debian release. The busybox is the dynamic one: the static one runs
// applets itself even where a runtime has masked their file.
func packages() []string {
	return []string{"busybox", "libc6", "nginx", "nginx-common", "libcrypt1", "libpcre2-8-0", "libssl3", "zlib1g"}
}

// parts is what recipes are cooked from: the unpacked packages and the compiled payloads.
type parts struct {
	root              string // all packages unpacked over each other
	arch              string
	applets           []string
	busybox, nginx    []file // the libraries each needs, loader included
	pause, nonewprivs []byte
}

// gather fetches and unpacks the packages below dir, and compiles the payloads.
func gather(dir string) (parts, error) {
	p := parts{root: filepath.Join(dir, "root"), arch: runtime.GOARCH}
	if err := fetch(dir, p.root); err != nil {
		return p, err
	}
	bb := filepath.Join(p.root, "bin/busybox")
	var err error
	if p.busybox, err = closure(p.root, bb); err != nil {
		return p, err
	}
	if p.nginx, err = closure(p.root, filepath.Join(p.root, "usr/sbin/nginx")); err != nil {
		return p, err
	}
	if p.applets, err = applets(p.root, bb, p.busybox); err != nil {
		return p, err
	}
	if p.pause, err = compile(dir, "pause", pauseSource); err != nil {
		return p, err
	}
	p.nonewprivs, err = compile(dir, "nonewprivs", nonewprivsSource)
	return p, err
}

// fetch downloads with apt, whose lists it refreshes if they are missing or out of date.
func fetch(dir, root string) error {
	if out, err := download(dir); err != nil {
		if up, err := exec.Command("apt-get", "update", "-qq").CombinedOutput(); err != nil {
			return fmt.Errorf("apt-get download: %s; apt-get update: %w: %s", out, err, up)
		}
		if out, err := download(dir); err != nil {
			return fmt.Errorf("apt-get download: %w: %s", err, out)
		}
	}
	debs, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, root).CombinedOutput(); err != nil {
			return fmt.Errorf("dpkg-deb -x %s: %w: %s", filepath.Base(deb), err, out)
		}
	}
	return nil
}

func download(dir string) (string, error) {
	cmd := exec.Command("apt-get", append([]string{"download", "-qq", "-o", "APT::Sandbox::User=root"}, packages()...)...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return strings.TrimSpace(string(out)), err
}

// libraryDirs are where Debian keeps shared libraries, seen from root.
func libraryDirs(root string) []string {
	out, _ := filepath.Glob(filepath.Join(root, "lib/*-linux-gnu*"))
	more, _ := filepath.Glob(filepath.Join(root, "usr/lib/*-linux-gnu*"))
	return append(out, more...)
}

// closure returns the loader and the libraries that the program needs, as regular files at the paths they are looked for.
func closure(root, program string) ([]file, error) {
	seen := map[string]bool{}
	var out []file
	for todo := []string{program}; len(todo) > 0; todo = todo[1:] {
		f, err := elf.Open(todo[0])
		if err != nil {
			return nil, err
		}
		names, err := f.ImportedLibraries()
		f.Close()
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			path, err := library(root, name)
			if err != nil {
				return nil, fmt.Errorf("%s: %w", filepath.Base(program), err)
			}
			data, err := os.ReadFile(path)
			if err != nil {
				return nil, err
			}
			at, _ := filepath.Rel(root, path)
			out = append(out, file{name: "/" + strings.TrimPrefix(at, "usr/"), mode: 0o755, data: data})
			todo = append(todo, path)
		}
	}
	loader, err := interpreter(root, program)
	if err != nil {
		return nil, err
	}
	out = append(out, loader)
	slices.SortFunc(out, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return out, nil
}

func library(root, name string) (string, error) {
	for _, d := range libraryDirs(root) {
		if _, err := os.Stat(filepath.Join(d, name)); err == nil {
			return filepath.Join(d, name), nil
		}
	}
	return "", fmt.Errorf("library %s: %w", name, os.ErrNotExist)
}

func interpreter(root, program string) (file, error) {
	f, err := elf.Open(program)
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	for _, p := range f.Progs {
		if p.Type != elf.PT_INTERP {
			continue
		}
		b := make([]byte, p.Filesz)
		if _, err := p.ReadAt(b, 0); err != nil {
			return file{}, err
		}
		at := string(bytes.TrimRight(b, "\x00"))
		path, err := library(root, filepath.Base(at))
		if err != nil {
			return file{}, err
		}
		data, err := os.ReadFile(path)
		return file{name: at, mode: 0o755, data: data}, err
	}
	return file{}, fmt.Errorf("%s: no interpreter", program)
}

// applets asks the unpacked busybox itself, through the unpacked loader.
func applets(root, busybox string, libs []file) ([]string, error) {
	var loader string
	for _, f := range libs {
		if strings.Contains(filepath.Base(f.name), "ld-") {
			path, err := library(root, filepath.Base(f.name))
			if err != nil {
				return nil, err
			}
			loader = path
		}
	}
	out, err := exec.Command(loader, "--library-path", strings.Join(libraryDirs(root), ":"), busybox, "--list").Output()
	if err != nil {
		return nil, fmt.Errorf("busybox --list: %w", err)
	}
	return strings.Fields(string(out)), nil
}

func compile(dir, name string, source []byte) ([]byte, error) {
	src := filepath.Join(dir, name+".go")
	if err := os.WriteFile(src, source, 0o644); err != nil {
		return nil, err
	}
	out := filepath.Join(dir, name)
	cmd := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", out, src)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GO111MODULE=off")
	if msg, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("compile %s: %w: %s", name, err, msg)
	}
	return os.ReadFile(out)
}

// busyboxFiles is the bottom layer of nearly all: applets are hard links, because with symlinks masking one masks all.
func (p parts) busyboxFiles() []file {
	out := dirs("/bin", "/etc", "/root", "/usr", "/usr/bin", "/usr/sbin", "/sbin", "/var", "/var/run", "/var/log", "/lib", "/lib64",
		"/home", "/dev", "/proc", "/sys", "/mnt", "/opt")
	out = append(out, file{name: "/tmp", mode: 0o1777, kind: tar.TypeDir},
		text("/etc/passwd", passwd), text("/etc/group", group),
		text("/etc/nsswitch.conf", "passwd: files\ngroup: files\nhosts: files dns\n"))
	out = append(out, p.busybox...)
	data, err := os.ReadFile(filepath.Join(p.root, "bin/busybox"))
	if err != nil {
		panic(err) // closure has just read it
	}
	out = append(out, file{name: "/bin/busybox", mode: 0o755, data: data},
		file{name: "/bin/pgrep", mode: 0o755, data: []byte(pgrep)}, file{name: "/bin/ipcs", mode: 0o755, data: []byte(ipcs)},
		file{name: "/usr/bin/env", mode: 0o755, kind: tar.TypeLink, link: "/bin/busybox"})
	for _, a := range p.applets {
		if a != "busybox" {
			out = append(out, file{name: "/bin/" + a, mode: 0o755, kind: tar.TypeLink, link: "/bin/busybox"})
		}
	}
	return out
}

func (p parts) nginxFiles(port string) []file {
	out := dirs("/etc/nginx", "/usr/share", "/usr/share/nginx", "/usr/share/nginx/html", "/var/log/nginx", "/var/lib", "/var/lib/nginx")
	for _, f := range p.nginx {
		if !slices.ContainsFunc(p.busybox, func(g file) bool { return g.name == f.name }) {
			out = append(out, f)
		}
	}
	for from, to := range map[string]string{"usr/sbin/nginx": "/usr/sbin/nginx", "etc/nginx/mime.types": "/etc/nginx/mime.types"} {
		data, err := os.ReadFile(filepath.Join(p.root, from))
		if err != nil {
			panic(err) // gather has just unpacked it
		}
		out = append(out, file{name: to, mode: 0o755, data: data})
	}
	out = append(out, text("/etc/nginx/nginx.conf", nginxConf(port)), text("/usr/share/nginx/html/index.html", page))
	slices.SortStableFunc(out, func(a, b file) int { return strings.Compare(a.name, b.name) })
	return out
}
