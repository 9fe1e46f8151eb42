package loop

import (
	"bytes"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/berth-runtime/berth/sandbox/monitor/wire"
)

// Stream tells a container's two outputs apart. A terminal has only Stdout.
type Stream int

// The streams, in the order of their descriptors.
const (
	Stdout Stream = iota
	Stderr
)

// batchSize holds the longest line there can be and, for usual lines, all of one read.
const batchSize = 128 << 10

// headerSize of a log line: time, space, stream, space, tag, space.
const headerSize = len("2006-01-02T15:04:05.000000000Z stdout F ")

// Batch is the buffer in which lines are put together. One serves all logs of a loop; it is empty between two calls of Write.
type Batch struct{ buf [batchSize]byte }

// Log writes one container's output in the CRI log format: "TIME STREAM TAG CONTENT\n".
//
// Lines longer than the limit are split: all but the last piece have tag P, the last has F. Content that ends without a newline
// gets tag P when its stream ends. A newline right behind a full piece belongs to it, so "\r\n" is never cut apart; "\r" is
// content and stays. Joining the pieces of a stream, with a newline after each F, gives the bytes that were read.
//
// Every write(2) carries whole lines and the file is opened with O_APPEND, so lines never interleave. A write that fails loses
// its lines and nothing else: the container is never held up by a full disk, and the first write that works again begins on a
// line of its own. All lines of one read have the same time.
type Log struct {
	path    string
	fd      int // -1: nothing is written
	max     int
	torn    bool // the file ends in the middle of a line
	batch   *Batch
	n       int // bytes in use of batch
	pending [2][]byte
	header  [headerSize]byte
	second  int64 // of the time in header
}

// OpenLog opens or creates the log at path, parents included. An empty path makes a Log that swallows.
func OpenLog(path string, lineMax int, batch *Batch) (*Log, error) {
	switch {
	case lineMax <= 0:
		lineMax = wire.DefaultLogMax
	case lineMax > wire.LimitLogMax:
		lineMax = wire.LimitLogMax
	}
	l := &Log{path: path, fd: -1, max: lineMax, batch: batch, second: -1}
	if path == "" {
		return l, nil
	}
	var err error
	l.fd, err = openLog(path)
	return l, err
}

// Reopen makes or opens the file at the log's path once more and goes on there. On error the old file stays in use and no
// file was made.
func (l *Log) Reopen() error {
	if l.path == "" {
		return nil
	}
	fd, err := openLog(l.path)
	if err != nil {
		return err
	}
	syscall.Close(l.fd)
	l.fd, l.torn = fd, false
	return nil
}

// Write adds what was read from a stream at a time given in nanoseconds since 1970.
func (l *Log) Write(s Stream, now int64, data []byte) {
	if l.fd < 0 {
		return
	}
	l.stamp(s, now)
	for len(data) > 0 {
		room := l.max - len(l.pending[s])
		head := data[:min(len(data), room+1)]
		if i := bytes.IndexByte(head, '\n'); i >= 0 {
			l.line(s, 'F', data[:i])
			data = data[i+1:]
		} else if len(data) > room {
			l.line(s, 'P', data[:room])
			data = data[room:]
		} else {
			l.pending[s] = append(l.pending[s], data...)
			break
		}
	}
	l.flush()
}

// End writes what a stream left without a newline.
func (l *Log) End(s Stream, now int64) {
	if l.fd < 0 || len(l.pending[s]) == 0 {
		return
	}
	l.stamp(s, now)
	l.line(s, 'P', nil)
	l.flush()
}

// Close closes the file. Write does nothing from then on.
func (l *Log) Close() {
	if l.fd >= 0 {
		syscall.Close(l.fd)
	}
	l.fd, l.path, l.pending = -1, "", [2][]byte{}
}

// line adds one line to the batch: what is pending of the stream, then content.
func (l *Log) line(s Stream, tag byte, content []byte) {
	pending := l.pending[s]
	if l.n+headerSize+len(pending)+len(content)+2 > batchSize {
		l.flush()
	}
	b := l.batch.buf[:]
	if l.torn {
		b[l.n] = '\n'
		l.n++
		l.torn = false
	}
	l.header[headerSize-2] = tag
	l.n += copy(b[l.n:], l.header[:])
	l.n += copy(b[l.n:], pending)
	l.n += copy(b[l.n:], content)
	b[l.n] = '\n'
	l.n++
	l.pending[s] = pending[:0]
}

// flush writes the batch. Where a regular file took only a part, the rest is tried once more, which tells the errno.
func (l *Log) flush() {
	b := l.batch.buf[:l.n]
	l.n = 0
	for len(b) > 0 {
		n, err := syscall.Write(l.fd, b)
		if err == syscall.EINTR {
			continue
		}
		if err != nil || n == 0 {
			return
		}
		l.torn = b[n-1] != '\n'
		b = b[n:]
	}
}

// stamp fills the header. The date is worked out once a second.
func (l *Log) stamp(s Stream, now int64) {
	h := l.header[:]
	if sec := now / 1e9; sec != l.second {
		t := time.Unix(sec, 0).UTC()
		year, month, day := t.Date()
		hour, minute, second := t.Clock()
		l.second = sec
		digits(h[0:4], year)
		h[4] = '-'
		digits(h[5:7], int(month))
		h[7] = '-'
		digits(h[8:10], day)
		h[10] = 'T'
		digits(h[11:13], hour)
		h[13] = ':'
		digits(h[14:16], minute)
		h[16] = ':'
		digits(h[17:19], second)
		h[19] = '.'
	}
	digits(h[20:29], int(now%1e9))
	name := "Z stdout F "
	if s == Stderr {
		name = "Z stderr F "
	}
	copy(h[29:], name)
}

// digits writes v with leading zeros over the whole of b.
func digits(b []byte, v int) {
	for i := len(b) - 1; i >= 0; i-- {
		b[i] = byte('0' + v%10)
		v /= 10
	}
}

// openLog opens a log for appending. What stands there already has to be a regular file: a link or a fifo planted in a log
// directory that a container can write to is refused, not followed and not waited for.
func openLog(path string) (int, error) {
	const flags = unix.O_WRONLY | unix.O_APPEND | unix.O_CREAT | unix.O_CLOEXEC | unix.O_NOFOLLOW | unix.O_NONBLOCK
	fd, err := openRetry(path, flags, 0o640)
	if err == syscall.ENOENT {
		if err = mkdirAll(path); err == nil {
			fd, err = openRetry(path, flags, 0o640)
		}
	}
	if err != nil {
		return -1, failure("open log "+path, err)
	}
	var st syscall.Stat_t
	if err = syscall.Fstat(fd, &st); err == nil && st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		err = syscall.EINVAL
	}
	if err != nil {
		syscall.Close(fd)
		return -1, failure("open log "+path, err)
	}
	return fd, nil
}

// mkdirAll makes the directories above path, mode 0755.
func mkdirAll(path string) error {
	for i := 1; i < len(path); i++ {
		if path[i] != '/' {
			continue
		}
		if err := syscall.Mkdir(path[:i], 0o755); err != nil && err != syscall.EEXIST {
			return err
		}
	}
	return nil
}

// openRetry is open(2) without EINTR, which a signal handler installed by the Go runtime can cause on network file systems.
func openRetry(path string, flags int, mode uint32) (int, error) {
	for {
		fd, err := syscall.Open(path, flags, mode)
		if err != syscall.EINTR {
			return fd, err
		}
	}
}
