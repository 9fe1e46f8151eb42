package cgroup

import (
	"reflect"
	"testing"
)

func TestDetailParsers(t *testing.T) {
	t.Parallel()
	var d Detail
	parseEvents([]byte("low 0\nhigh 1\nmax 7\noom 2\noom_kill 3\noom_group_kill 0\n"), &d)
	if d.MemoryFails != 7 || d.OOMKills != 3 {
		t.Errorf("events: %+v", d)
	}
	parseDevicesV2([]byte("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0\nnonsense\n254:16 rbytes=9\n"), &d)
	want := []DeviceIO{{8, 0, Transfer{1, 2, 3, 4}}, {254, 16, Transfer{9, 0, 0, 0}}}
	if !reflect.DeepEqual(d.Devices, want) {
		t.Errorf("v2 devices: %+v", d.Devices)
	}
	var one Detail
	one.devicesV1([]byte("8:0 Read 1\n8:0 Write 2\n8:0 Sync 3\nTotal 3\n"), false)
	one.devicesV1([]byte("8:0 Read 5\n8:0 Write 6\nTotal 11\n"), true)
	if want := []DeviceIO{{8, 0, Transfer{1, 2, 5, 6}}}; !reflect.DeepEqual(one.Devices, want) {
		t.Errorf("v1 devices: %+v", one.Devices)
	}
	one.huge("2MB").Usage = 4
	one.huge("1GB").Peak = 5
	one.huge("2MB").Peak = 6
	if want := []Huge{{"2MB", 4, 6}, {"1GB", 0, 5}}; !reflect.DeepEqual(one.Huge, want) {
		t.Errorf("huge pages: %+v", one.Huge)
	}
}
