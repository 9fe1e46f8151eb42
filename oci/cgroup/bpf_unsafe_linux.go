package cgroup

import (
	"fmt"
	"io/fs"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The bpf(2) commands below take the leading part of union bpf_attr; the kernel
// reads what is missing as zero. Pointers are __aligned_u64 there: this needs a
// 64-bit machine.

type progLoadAttr struct {
	kind        uint32
	insnCount   uint32
	insns       unsafe.Pointer
	license     unsafe.Pointer
	logLevel    uint32
	logSize     uint32
	logBuf      uint64
	kernVersion uint32
	flags       uint32
	name        [16]byte
}

type progAttachAttr struct {
	target, prog, kind, flags, replace uint32
}

type progQueryAttr struct {
	target, kind, queryFlags, attachFlags uint32
	ids                                   unsafe.Pointer
	count, _                              uint32
}

type progByIDAttr struct {
	id, next, flags uint32
}

func bpf(cmd uintptr, attr unsafe.Pointer, size uintptr) (int, error) {
	for {
		fd, _, e := unix.Syscall(unix.SYS_BPF, cmd, uintptr(attr), size)
		// EAGAIN: the verifier was interrupted by a signal.
		if e == unix.EINTR || e == unix.EAGAIN {
			continue
		}
		if e != 0 {
			return -1, e
		}
		return int(fd), nil
	}
}

// attachDevices puts a program on a cgroup2 directory in place of all device
// programs attached there before. A process in the group is filtered by the old
// or the new one at every moment.
func attachDevices(path string, code []insn) error {
	dir, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return &fs.PathError{Op: "open", Path: path, Err: err}
	}
	defer unix.Close(dir)
	prog, err := loadDevices(code)
	if err != nil {
		return fmt.Errorf("load device program: %w", err)
	}
	defer unix.Close(prog)
	old, err := attachedDevices(dir)
	defer func() {
		for _, fd := range old {
			unix.Close(fd)
		}
	}()
	if err != nil {
		return fmt.Errorf("query device programs: %w", err)
	}
	a := progAttachAttr{target: uint32(dir), prog: uint32(prog), kind: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	if len(old) == 1 {
		// Linux 5.6.
		a.flags |= unix.BPF_F_REPLACE
		a.replace = uint32(old[0])
	}
	if _, err := bpf(unix.BPF_PROG_ATTACH, unsafe.Pointer(&a), unsafe.Sizeof(a)); err != nil {
		return fmt.Errorf("attach device program: %w", err)
	}
	if len(old) == 1 {
		return nil
	}
	for _, fd := range old {
		d := progAttachAttr{target: uint32(dir), prog: uint32(fd), kind: unix.BPF_CGROUP_DEVICE}
		if _, err := bpf(unix.BPF_PROG_DETACH, unsafe.Pointer(&d), unsafe.Sizeof(d)); err != nil {
			return fmt.Errorf("detach device program: %w", err)
		}
	}
	return nil
}

func loadDevices(code []insn) (int, error) {
	license := []byte("Apache-2.0\x00")
	attr := progLoadAttr{
		kind:      unix.BPF_PROG_TYPE_CGROUP_DEVICE,
		insnCount: uint32(len(code)),
		insns:     unsafe.Pointer(&code[0]),
		license:   unsafe.Pointer(&license[0]),
	}
	copy(attr.name[:], "berth_devices")
	fd, err := bpf(unix.BPF_PROG_LOAD, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return fd, err
}

// attachedDevices opens the device programs attached to the directory itself.
func attachedDevices(dir int) ([]int, error) {
	var ids [64]uint32 // the kernel's maximum, BPF_CGROUP_MAX_PROGS
	q := progQueryAttr{target: uint32(dir), kind: unix.BPF_CGROUP_DEVICE,
		ids: unsafe.Pointer(&ids[0]), count: uint32(len(ids))}
	_, err := bpf(unix.BPF_PROG_QUERY, unsafe.Pointer(&q), unsafe.Sizeof(q))
	if err != nil {
		return nil, err
	}
	var fds []int
	for _, id := range ids[:q.count] {
		a := progByIDAttr{id: id}
		fd, err := bpf(unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&a), unsafe.Sizeof(a))
		if err == unix.ENOENT {
			continue // detached meanwhile
		}
		if err != nil {
			return fds, fmt.Errorf("program %d: %w", id, err)
		}
		fds = append(fds, fd)
	}
	return fds, nil
}
