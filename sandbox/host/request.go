package host

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	rt "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/berth-runtime/berth/sandbox/compile"
)

// Requested looks at the device nodes a request names; a directory stands for every device below it.
func Requested(devices []*rt.Device) ([][]compile.Device, error) {
	var out [][]compile.Device
	for _, d := range devices {
		target := d.GetContainerPath()
		if target == "" {
			target = d.GetHostPath()
		}
		real, err := filepath.EvalSymlinks(d.GetHostPath())
		if err != nil {
			return nil, fmt.Errorf("device %s: %w", clip(d.GetHostPath()), err)
		}
		found := []compile.Device(nil)
		if st, err := os.Stat(real); err == nil && st.IsDir() {
			if found, err = DevicesUnder(real, target); err != nil {
				return nil, fmt.Errorf("device directory %s: %w", real, err)
			}
		} else if one, ok := DeviceAt(real, target); ok {
			found = append(found, one)
		} else {
			return nil, fmt.Errorf("%s is neither a device nor a directory of devices: %w", real, fs.ErrInvalid)
		}
		out = append(out, found)
	}
	return out, nil
}

// clip quotes what of a request goes into an error text.
func clip(s string) string {
	if len(s) > 80 {
		s = s[:80] + "…"
	}
	return fmt.Sprintf("%q", s)
}
