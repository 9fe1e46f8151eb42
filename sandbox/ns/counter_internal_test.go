package ns

import (
	"reflect"
	"testing"
)

func TestParseLinks(t *testing.T) {
	t.Parallel()
	const head = "Inter-|   Receive                                                |  Transmit\n" +
		" face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed\n"
	for text, want := range map[string][]Link{
		"":   nil,
		head: nil,
		head + "    lo:       0       0    0    0    0     0          0         0        0       0    0    0    0     0       0          0\n" +
			"  eth0: 18446744073709551615 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n" +
			"eth0:1:1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16\n": {
			{Name: "lo"},
			{Name: "eth0", RxBytes: 18446744073709551615, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 9, TxPackets: 10, TxErrors: 11, TxDropped: 12},
			{Name: "eth0:1", RxBytes: 1, RxPackets: 2, RxErrors: 3, RxDropped: 4, TxBytes: 9, TxPackets: 10, TxErrors: 11, TxDropped: 12},
		},
		head + "eth0: 1 2 3\nno colon 1 2\neth1: x 2 3 4 5 6 7 8 9 10 11 12 13\n": nil,
	} {
		if got := parseLinks([]byte(text)); !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v", text, got)
		}
	}
}
