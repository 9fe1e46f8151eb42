package wire

import (
	"encoding/json"
	"syscall"
)

// Encode appends nothing and shares nothing: it returns v as one packet, or an Error with EMSGSIZE when it exceeds MaxPacket.
func Encode(v any) ([]byte, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	if len(b) > MaxPacket {
		return nil, &Error{Text: "packet larger than 256 KiB", Errno: syscall.EMSGSIZE}
	}
	return b, nil
}

// Decode reads a packet into v.
func Decode(b []byte, v any) error {
	if len(b) > MaxPacket {
		return &Error{Text: "packet larger than 256 KiB", Errno: syscall.EMSGSIZE}
	}
	if err := json.Unmarshal(b, v); err != nil {
		return &Error{Text: "malformed packet: " + err.Error(), Errno: syscall.EBADMSG}
	}
	return nil
}
