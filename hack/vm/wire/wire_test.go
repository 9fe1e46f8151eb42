package wire_test

import (
	"bytes"
	"errors"
	"io"
	"testing"

	"github.com/berth-runtime/berth/hack/vm/wire"
)

func TestFrames(t *testing.T) {
	var b bytes.Buffer
	w := wire.NewWriter(&b)
	big := bytes.Repeat([]byte("x"), 200<<10) // more than one frame
	if err := w.Send(wire.Stdin, nil); err != nil {
		t.Fatal(err)
	}
	if n, err := w.Stream(wire.Stdout).Write(big); n != len(big) || err != nil {
		t.Fatal(n, err)
	}
	if err := w.Send(wire.Exit, []byte("7")); err != nil {
		t.Fatal(err)
	}
	var got []byte
	var kinds []byte
	for {
		k, data, err := wire.Read(&b)
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		kinds = append(kinds, byte(k))
		if k == wire.Stdout {
			got = append(got, data...)
		}
	}
	if !bytes.Equal(got, big) || string(kinds) != "ioooox" {
		t.Errorf("%d bytes in %s", len(got), kinds)
	}
}

func TestBadFrames(t *testing.T) {
	if _, _, err := wire.Read(bytes.NewReader([]byte("o\xff\xff\xff\xff"))); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
	if _, _, err := wire.Read(bytes.NewReader([]byte("o\x00\x00\x00\x05abc"))); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
}
