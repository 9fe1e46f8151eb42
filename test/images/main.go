// Images builds the container images that tests and the demo pull, from Debian's packages and a few
// lines of our own, and serves them as a registry on loopback.
//
//	images build                        build the set into the cache, if it is not there
//	images list                         print every reference
//	images digest NAME:TAG              print the digest a reference stands for
//	images serve --addr HOST:PORT       be a registry; prints the address it listens on, then serves
//	images add --dir DIR FILE           make another set in DIR: FILE lists images as {"refs","layers","config"} of archives
//	images serve --also DIR             serve that one too
//	images mirrors --dir DIR --addr A   write DIR/<registry>/hosts.toml so that a runtime asks A instead
//
// The set is what critest v1.36.0 pulls, plus busybox and nginx under their docker.io names.
// It is built on purpose to be various: gzip, zstd and plain layers, Docker's and OCI's media types,
// indexes whose entry for another platform does not exist, whiteouts, hard links.
// Everything but the packages is embedded in the program, so its own text is the key of the cache.
package main

import (
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return fmt.Errorf("usage: images build|list|digest|add|serve|mirrors")
	}
	fs := flag.NewFlagSet("images "+args[0], flag.ExitOnError)
	cache := fs.String("cache", cacheDir(), "where built images are kept")
	addr := fs.String("addr", "127.0.0.1:0", "address of the registry; port 0 takes a free one")
	dir := fs.String("dir", "", "certs.d style directory to write or, with serve, to write as well")
	also := fs.String("also", "", "with serve: another set's directory")
	addrFile := fs.String("addr-file", "", "with serve: write the address here as well")
	if err := fs.Parse(args[1:]); err != nil {
		return err
	}
	switch args[0] {
	case "mirrors":
		return writeMirrors(*dir, *addr)
	case "add":
		return add(*dir, fs.Arg(0))
	}
	s, err := open(*cache)
	if err != nil {
		return err
	}
	switch args[0] {
	case "build":
		fmt.Println(s.dir)
		return nil
	case "list":
		for _, name := range s.names() {
			fmt.Println(name)
		}
		return nil
	case "digest":
		d, ok := s.Refs[fs.Arg(0)]
		if !ok {
			return fmt.Errorf("%s: not in the set", fs.Arg(0))
		}
		fmt.Println(d.Digest)
		return nil
	case "serve":
		if *also != "" {
			if err := s.join(*also); err != nil {
				return err
			}
		}
		return serve(s, *addr, *dir, *addrFile)
	}
	return fmt.Errorf("unknown command %s", args[0])
}

func cacheDir() string {
	if c := os.Getenv("BERTH_CACHE"); c != "" {
		return filepath.Join(c, "images")
	}
	return ".cache/images"
}

// serve ends with the process. The address is printed once connections are accepted.
func serve(s *store, addr, dir, addrFile string) error {
	l, err := net.Listen("tcp", addr)
	if err != nil {
		return err
	}
	at := l.Addr().String()
	if dir != "" {
		if err := writeMirrors(dir, at); err != nil {
			return err
		}
	}
	if addrFile != "" {
		if err := os.WriteFile(addrFile+".tmp", []byte(at), 0o644); err != nil {
			return err
		}
		if err := os.Rename(addrFile+".tmp", addrFile); err != nil {
			return err
		}
	}
	fmt.Println(at)
	srv := http.Server{Handler: s, ReadHeaderTimeout: 10 * time.Second}
	return srv.Serve(l)
}

// writeMirrors points every registry of the set, and docker.io, at addr. "server" names addr too, so that an
// image that is missing is missing: nothing is ever looked up outside.
func writeMirrors(dir, addr string) error {
	for _, host := range []string{"registry.k8s.io", "k8s.gcr.io", "gcr.io", "public.ecr.aws", "docker.io"} {
		d := filepath.Join(dir, host)
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
		url := "http://" + addr
		text := fmt.Sprintf("server = %q\n\n[host.%q]\n  capabilities = [\"pull\", \"resolve\"]\n", url, url)
		if err := os.WriteFile(filepath.Join(d, "hosts.toml"), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// repository drops the registry's name: all of them are served from one place.
func repository(ref string) (name, tag string) {
	_, rest, _ := strings.Cut(ref, "/")
	if i := strings.LastIndexByte(rest, ':'); i > 0 {
		return rest[:i], rest[i+1:]
	}
	return rest, "latest"
}
