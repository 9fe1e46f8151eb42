// Package wire is what the host and the agent in a virtual node say to each other over one TCP connection a command.
//
// The host sends a Request as one line of JSON; then both sides send frames: a byte that says what it is, four bytes of
// length (big-endian), that many bytes. The host sends Stdin (an empty frame ends it) and Resize, the agent Stdout,
// Stderr and, last, one Exit with the exit code in decimal or an error's text. A host that closes the connection ends
// the command.
package wire

import (
	"encoding/binary"
	"fmt"
	"io"
	"sync"
)

// Port is where the agent listens, on all of the node's addresses.
const Port = 2222

// Request is a command to run as root.
type Request struct {
	Args []string
	Dir  string   // default /
	Env  []string // added to the agent's
	TTY  bool
	Rows uint16
	Cols uint16
}

// Kind says what a frame is.
type Kind byte

const (
	Stdin  Kind = 'i'
	Stdout Kind = 'o'
	Stderr Kind = 'e'
	Resize Kind = 'w' // "ROWS COLS"
	Exit   Kind = 'x' // the exit code; 128 + n after signal n
	Broken Kind = 'b' // why the command could not be run
)

// limit bounds a frame, so that a broken peer can't ask for all memory.
const limit = 1 << 20

// Read returns the next frame.
func Read(r io.Reader) (Kind, []byte, error) {
	var head [5]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, nil, err
	}
	n := binary.BigEndian.Uint32(head[1:])
	if n > limit {
		return 0, nil, fmt.Errorf("frame of %d bytes", n)
	}
	data := make([]byte, n)
	_, err := io.ReadFull(r, data)
	return Kind(head[0]), data, err
}

// Writer sends frames; its methods may be called from several goroutines.
type Writer struct {
	mu sync.Mutex
	w  io.Writer
}

// NewWriter sends frames to w.
func NewWriter(w io.Writer) *Writer { return &Writer{w: w} }

// Send writes one frame.
func (w *Writer) Send(k Kind, data []byte) error {
	frame := make([]byte, 5+len(data))
	frame[0] = byte(k)
	binary.BigEndian.PutUint32(frame[1:], uint32(len(data)))
	copy(frame[5:], data)
	w.mu.Lock()
	defer w.mu.Unlock()
	_, err := w.w.Write(frame)
	return err
}

// Stream is an io.Writer whose writes are frames of one kind.
func (w *Writer) Stream(k Kind) io.Writer { return stream{w, k} }

type stream struct {
	w    *Writer
	kind Kind
}

func (s stream) Write(p []byte) (int, error) {
	for sent := 0; sent < len(p); {
		n := min(len(p)-sent, 64<<10)
		if err := s.w.Send(s.kind, p[sent:sent+n]); err != nil {
			return sent, err
		}
		sent += n
	}
	return len(p), nil
}
