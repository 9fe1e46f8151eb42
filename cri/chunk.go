package cri

import "google.golang.org/protobuf/proto"

// chunkSize is the encoded size up to which a message of a streamed list is filled: well below maxMessage, and small
// enough not to make the client allocate much at once.
const chunkSize = 2 << 20

// chunks hands the items to send in their order, as many at a time as fit into limit bytes; an item that is larger
// goes alone. No items, no call. It ends with the first error.
func chunks[T proto.Message](items []T, limit int, send func([]T) error) error {
	size, first := 0, 0
	for i, item := range items {
		// 1 byte of tag and at most 4 of length: an item has less than 256 MiB.
		n := proto.Size(item) + 5
		if i > first && size+n > limit {
			if err := send(items[first:i]); err != nil {
				return err
			}
			size, first = 0, i
		}
		size += n
	}
	if first == len(items) {
		return nil
	}
	return send(items[first:])
}
