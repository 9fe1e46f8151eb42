// Package checkpoint makes the archive of a checkpointed container, in the form that podman, CRI-O and containerd share and
// checkpointctl shows (checkpoint-restore/checkpointctl, lib/metadata.go):
//
//	config.dump       who the container is                    spec.dump     its OCI specification
//	status.dump       its state (containerd)                  checkpoint/   CRIU's images
//	rootfs-diff.tar   what it wrote over its image            deleted.files what it removed of it
//	dump.log, stats-dump  of CRIU                             container.log what it had logged
//
// Here is no knowledge of pods or of the CRI: it is given files and directories, and writes one file. That holds the memory of
// processes, so it is for root alone; it has its name only when it is complete.
package checkpoint

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Config is config.dump.
type Config struct {
	ID              string    `json:"id"`
	Name            string    `json:"name"`
	RootfsImage     string    `json:"rootfsImage,omitempty"`
	RootfsImageRef  string    `json:"rootfsImageRef,omitempty"`
	RootfsImageName string    `json:"rootfsImageName,omitempty"`
	OCIRuntime      string    `json:"runtime,omitempty"`
	CreatedTime     time.Time `json:"createdTime"`
	CheckpointedAt  time.Time `json:"checkpointedTime"`
	RestoredAt      time.Time `json:"restoredTime"`
	Restored        bool      `json:"restored"`
}

// Archive is what goes into the file.
type Archive struct {
	Config Config
	Spec   any
	Status any
	Images string   // directory of CRIU's images
	Work   string   // directory of dump.log and stats-dump
	Upper  string   // the writable layer, as overlayfs keeps it
	Lower  []string // the layers below, top first
	Log    string   // the container's log, "": none
}

// Write makes the archive at path.
func (a Archive) Write(path string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			f.Close()
			os.Remove(f.Name())
		}
	}()
	w := tar.NewWriter(f)
	if err = a.write(w); err == nil {
		err = w.Close()
	}
	if err == nil {
		err = f.Sync()
	}
	if err == nil {
		err = f.Close()
	}
	if err == nil {
		err = os.Rename(f.Name(), path)
	}
	return err
}

func (a Archive) write(w *tar.Writer) error {
	for _, part := range []struct {
		name string
		v    any
	}{{"config.dump", a.Config}, {"spec.dump", a.Spec}, {"status.dump", a.Status}} {
		b, err := json.MarshalIndent(part.v, "", "  ")
		if err != nil {
			return fmt.Errorf("encode %s: %w", part.name, err)
		}
		if err := entry(w, part.name, b); err != nil {
			return err
		}
	}
	if err := tree(w, a.Images, "checkpoint/", nil); err != nil {
		return err
	}
	for name, path := range map[string]string{"dump.log": filepath.Join(a.Work, "dump.log"), "stats-dump": filepath.Join(a.Work, "stats-dump"), "container.log": a.Log} {
		if err := file(w, name, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return a.diff(w)
}

// diff writes the container's changes. The tar in the tar is spooled: its size goes before it.
func (a Archive) diff(w *tar.Writer) error {
	spool, err := os.OpenFile(filepath.Join(a.Work, "rootfs-diff.tar"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer spool.Close()
	inner := tar.NewWriter(spool)
	deleted := []string{}
	if err := tree(inner, a.Upper, "", func(name string, st fs.FileInfo) (keep bool, err error) {
		keep, gone, err := a.change(name, st)
		deleted = append(deleted, gone...)
		return keep, err
	}); err != nil {
		return fmt.Errorf("changes of the root file system: %w", err)
	}
	if err := inner.Close(); err != nil {
		return err
	}
	if err := file(w, "rootfs-diff.tar", spool.Name()); err != nil {
		return err
	}
	slices.Sort(deleted)
	b, err := json.Marshal(deleted)
	if err != nil {
		return err
	}
	return entry(w, "deleted.files", b)
}

// change reads an entry of the writable layer as overlayfs means it (Documentation/filesystems/overlayfs.rst): a device 0/0 is a
// whiteout; an opaque directory hides what lies below it.
func (a Archive) change(name string, st fs.FileInfo) (keep bool, deleted []string, err error) {
	if sys, ok := st.Sys().(*syscall.Stat_t); ok && st.Mode()&os.ModeCharDevice != 0 && sys.Rdev == 0 {
		return false, []string{name}, nil
	}
	for _, attr := range []string{"redirect", "metacopy"} {
		if has(filepath.Join(a.Upper, name), attr) {
			return false, nil, fmt.Errorf("%s: overlayfs attribute %s, whose content is elsewhere: %w", name, attr, errors.ErrUnsupported)
		}
	}
	if !st.IsDir() || !has(filepath.Join(a.Upper, name), "opaque") {
		return true, nil, nil
	}
	own := map[string]bool{}
	entries, err := os.ReadDir(filepath.Join(a.Upper, name))
	if err != nil {
		return false, nil, err
	}
	for _, e := range entries {
		own[e.Name()] = true
	}
	for _, l := range a.Lower {
		below, _ := os.ReadDir(filepath.Join(l, name)) // most layers do not have it
		for _, e := range below {
			if !own[e.Name()] {
				own[e.Name()] = true
				deleted = append(deleted, filepath.Join(name, e.Name()))
			}
		}
	}
	return true, deleted, nil
}

// has reports whether overlayfs has marked a file.
func has(path, attr string) bool {
	for _, prefix := range []string{"trusted.overlay.", "user.overlay."} {
		if n, err := unix.Lgetxattr(path, prefix+attr, nil); err == nil && n > 0 {
			return true
		}
	}
	return false
}

func entry(w *tar.Writer, name string, b []byte) error {
	if err := w.WriteHeader(&tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o600, Size: int64(len(b)), ModTime: time.Now()}); err != nil {
		return err
	}
	_, err := w.Write(b)
	return err
}

// file copies as much of a file as it had when it was opened: a log may grow.
func file(w *tar.Writer, name, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	h, err := tar.FileInfoHeader(st, "")
	if err != nil {
		return err
	}
	h.Name = name
	if err := w.WriteHeader(h); err != nil {
		return err
	}
	_, err = io.CopyN(w, f, h.Size)
	return err
}

// tree adds what is below dir, without following links; choose, if not nil, says of each entry whether it is added.
func tree(w *tar.Writer, dir, prefix string, choose func(string, fs.FileInfo) (bool, error)) error {
	return filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil || name == "." {
			return err
		}
		st, err := d.Info()
		if err != nil {
			return err
		}
		if choose != nil {
			if keep, err := choose(name, st); err != nil || !keep {
				return err
			}
		}
		if st.Mode()&os.ModeSocket != 0 {
			return nil // a tar has no sockets
		}
		return add(w, path, prefix+name, st)
	})
}

func add(w *tar.Writer, path, name string, st fs.FileInfo) error {
	if st.Mode().IsRegular() {
		return file(w, name, path)
	}
	link := ""
	if st.Mode()&os.ModeSymlink != 0 {
		var err error
		if link, err = os.Readlink(path); err != nil {
			return err
		}
	}
	h, err := tar.FileInfoHeader(st, link)
	if err != nil {
		return err
	}
	h.Name = name
	if st.IsDir() {
		h.Name = strings.TrimSuffix(name, "/") + "/"
	}
	return w.WriteHeader(h)
}
