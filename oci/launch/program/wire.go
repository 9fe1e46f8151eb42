package program

import (
	"encoding/binary"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

// Kinds of messages from init to its parent.
const (
	Warning byte = 'W' // text
	Failure byte = 'E' // text; init ends
	Hooks   byte = 'H' // name of the hooks to run; answered by one byte
	Ready   byte = 'R' // all of Setup is done
)

// batch is how many descriptors go with one byte; SCM_MAX_FD is 253.
const batch = 200

// Send writes the program and its descriptors to the init at the other end of the stream socket fd.
func Send(fd int, p *Program, files []int) error {
	body := p.Encode()
	if len(body) > MaxMessage {
		return fmt.Errorf("program of %d bytes: %w", len(body), fs.ErrInvalid)
	}
	head := binary.LittleEndian.AppendUint32(nil, uint32(len(body)))
	head = binary.LittleEndian.AppendUint32(head, uint32(len(files)))
	if err := writeAll(fd, head); err != nil {
		return err
	}
	for len(files) > 0 {
		n := min(batch, len(files))
		if err := unix.Sendmsg(fd, []byte{'F'}, unix.UnixRights(files[:n]...), nil, unix.MSG_NOSIGNAL); err != nil {
			return os.NewSyscallError("sendmsg", err)
		}
		files = files[n:]
	}
	return writeAll(fd, body)
}

// Receive reads a program. The descriptors it returns are close-on-exec, the caller's, and as many as slots sent.
func Receive(fd int) (*Program, []int, error) {
	var head [8]byte
	if err := readAll(fd, head[:]); err != nil {
		return nil, nil, err
	}
	size, count := binary.LittleEndian.Uint32(head[:]), binary.LittleEndian.Uint32(head[4:])
	if size > MaxMessage || count > maxSlots {
		return nil, nil, fmt.Errorf("program of %d bytes, %d descriptors: %w", size, count, fs.ErrInvalid)
	}
	files, err := receiveFiles(fd, int(count))
	if err != nil {
		return nil, files, err
	}
	body := make([]byte, size)
	if err := readAll(fd, body); err != nil {
		return nil, files, err
	}
	p, err := Decode(body)
	if err == nil && len(files) > p.Slots {
		err = fmt.Errorf("program of %d slots, %d descriptors: %w", p.Slots, len(files), fs.ErrInvalid)
	}
	return p, files, err
}

func receiveFiles(fd, count int) ([]int, error) {
	var files []int
	oob, one := make([]byte, unix.CmsgSpace(4*batch)), make([]byte, 1)
	for len(files) < count {
		n, oobn, flags, _, err := unix.Recvmsg(fd, one, oob, unix.MSG_CMSG_CLOEXEC)
		if err == unix.EINTR {
			continue
		}
		if err != nil || n == 0 || flags&unix.MSG_CTRUNC != 0 {
			return files, fmt.Errorf("receive descriptors (flags %#x): %w", flags, or(err, io.ErrUnexpectedEOF))
		}
		cs, err := unix.ParseSocketControlMessage(oob[:oobn])
		if err != nil {
			return files, err
		}
		for i := range cs {
			fds, err := unix.ParseUnixRights(&cs[i])
			if err != nil {
				return files, err
			}
			files = append(files, fds...)
		}
	}
	return files, nil
}

// Say sends one message to the parent.
func Say(fd int, kind byte, text string) error {
	b := append([]byte{kind}, binary.LittleEndian.AppendUint32(nil, uint32(len(text)))...)
	return writeAll(fd, append(b, text...))
}

// Hear reads one message. io.EOF: init ended without one.
func Hear(fd int) (kind byte, text string, err error) {
	var head [5]byte
	if err := readAll(fd, head[:]); err != nil {
		return 0, "", err
	}
	size := binary.LittleEndian.Uint32(head[1:])
	if size > 1<<20 {
		return 0, "", fmt.Errorf("message of %d bytes: %w", size, fs.ErrInvalid)
	}
	b := make([]byte, size)
	if err := readAll(fd, b); err != nil {
		return 0, "", err
	}
	return head[0], string(b), nil
}

func readAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.Read(fd, b)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("read", err)
		case n == 0:
			return io.EOF
		default:
			b = b[n:]
		}
	}
	return nil
}

func writeAll(fd int, b []byte) error {
	for len(b) > 0 {
		n, err := unix.SendmsgN(fd, b, nil, nil, unix.MSG_NOSIGNAL)
		switch {
		case err == unix.EINTR:
		case err != nil:
			return os.NewSyscallError("sendmsg", err)
		default:
			b = b[n:]
		}
	}
	return nil
}

func or(a, b error) error {
	if a != nil {
		return a
	}
	return b
}
