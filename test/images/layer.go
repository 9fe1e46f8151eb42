package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"fmt"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
)

// file is one entry of a layer. Kind 0 is a regular file.
type file struct {
	name string
	mode int64
	kind byte
	link string
	data []byte
	uid  int // and gid
}

// layer is a built layer: blob as served, diff as the digest of the plain archive.
type layer struct {
	blob      []byte
	mediaType string
	diff      digest.Digest
}

type compression int

const (
	plain compression = iota
	gzipped
	zstded
)

// pack makes the archive of one layer. Times are fixed, so equal content gives equal digests.
func pack(files []file) ([]byte, error) {
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, f := range files {
		h := &tar.Header{Name: strings.TrimPrefix(f.name, "/"), Mode: f.mode, Uid: f.uid, Gid: f.uid, Typeflag: f.kind, Linkname: f.link,
			Size: int64(len(f.data)), ModTime: time.Unix(1700000000, 0), Format: tar.FormatPAX}
		switch f.kind {
		case 0:
			h.Typeflag = tar.TypeReg
		case tar.TypeDir:
			h.Name += "/"
		case tar.TypeLink:
			h.Linkname = strings.TrimPrefix(f.link, "/")
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
		if _, err := w.Write(f.data); err != nil {
			return nil, fmt.Errorf("pack %s: %w", f.name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return buf.Bytes(), nil
}

func compress(archive []byte, c compression) ([]byte, error) {
	var buf bytes.Buffer
	switch c {
	case gzipped:
		w, err := gzip.NewWriterLevel(&buf, gzip.BestSpeed)
		if err != nil {
			return nil, err
		}
		if _, err := w.Write(archive); err != nil {
			return nil, err
		}
		if err := w.Close(); err != nil {
			return nil, err
		}
		return buf.Bytes(), nil
	case zstded:
		w, err := zstd.NewWriter(nil)
		if err != nil {
			return nil, err
		}
		return w.EncodeAll(archive, nil), nil
	}
	return archive, nil
}
