package quick

import "unsafe"

// str is a string of the heap, which is not written again.
func (m *picture) str(s span) string { return unsafe.String(&m.heap[s.off], int(s.n)) }
