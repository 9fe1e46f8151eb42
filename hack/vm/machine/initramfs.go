package machine

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// initramfs writes a cpio archive (newc, see the kernel's Documentation/driver-api/early-userspace/buffer-format.rst)
// of the agent as /init, and an image's modules.
func initramfs(path, agent, image string) error {
	var b bytes.Buffer
	entry(&b, "modules", fs.ModeDir|0o755, nil)
	entry(&b, "dev", fs.ModeDir|0o755, nil)
	entry(&b, "newroot", fs.ModeDir|0o755, nil)
	// The kernel opens it for process 1's output before the agent mounts anything.
	device(&b, "dev/console", 5, 1)
	files := map[string]string{"init": agent, "modules.list": filepath.Join(image, "modules.list")}
	mods, err := filepath.Glob(filepath.Join(image, "modules", "*"))
	if err != nil {
		return err
	}
	for _, m := range mods {
		files["modules/"+filepath.Base(m)] = m
	}
	for name, from := range files {
		data, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		entry(&b, name, 0o755, data)
	}
	entry(&b, "TRAILER!!!", 0, nil)
	return os.WriteFile(path, b.Bytes(), 0o644)
}

func entry(b *bytes.Buffer, name string, mode fs.FileMode, data []byte) {
	bits := 0o100000 | uint32(mode.Perm())
	if mode.IsDir() {
		bits = 0o040000 | uint32(mode.Perm())
	}
	header(b, name, bits, len(data), [2]int{})
	b.Write(data)
	pad(b)
}

func device(b *bytes.Buffer, name string, major, minor int) {
	header(b, name, 0o020600, 0, [2]int{major, minor})
}

func header(b *bytes.Buffer, name string, mode uint32, size int, rdev [2]int) {
	// magic, ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor, namesize, check
	fmt.Fprintf(b, "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", 0, mode, 0, 0, 1, 0, size, 0, 0, rdev[0], rdev[1], len(name)+1, 0)
	b.WriteString(name)
	b.WriteByte(0)
	pad(b)
}

func pad(b *bytes.Buffer) {
	for b.Len()%4 != 0 {
		b.WriteByte(0)
	}
}
