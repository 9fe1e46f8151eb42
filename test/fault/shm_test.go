package fault

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// All containers of a pod get its one shared memory, also those that are made after the daemon came back, whichever way the
// kernel lets it be kept; and it goes with the pod.
func TestSharedMemory(t *testing.T) {
	t.Parallel()
	for _, older := range []bool{false, true} {
		t.Run(fmt.Sprint("older kernel ", older), func(t *testing.T) {
			t.Parallel()
			n := openNode(t, &node{older: older})
			p := n.run("a")
			var ids []string
			for i := range 4 {
				if i == 2 {
					n.must(n.Close(t.Context()))
					n.open()
					var err error
					p, err = n.Pod(p.ID())
					n.must(err)
				}
				name := fmt.Sprint("c", i)
				ids = append(ids, n.start(p, name, "share").ID())
				n.eventually(name+" has told what it sees", func() bool {
					b, _ := os.ReadFile(filepath.Join(n.dir, "logs", name+".log"))
					for _, id := range ids {
						if !strings.Contains(string(b), "shares "+id) {
							return false
						}
					}
					return strings.Count(string(b), "shares ") == len(ids)
				})
			}
			n.must(p.Remove(t.Context()))
			n.empty()
			n.nothingLeft()
		})
	}
}
