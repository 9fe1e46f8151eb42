// Command fakecni is a network plugin that connects nothing. It keeps a lease, a file, for each attachment it made and
// has not given back; otherwise it does what its script says (package script), whose directory is in its configuration.
package main

import (
	"encoding/json"
	"fmt"
	"hash/fnv"
	"os"
	"path/filepath"

	"github.com/berth-runtime/berth/test/fault/script"
)

func main() {
	var conf struct {
		CNIVersion string
		Script     script.Dir
	}
	if err := json.NewDecoder(os.Stdin).Decode(&conf); err != nil {
		refuse("", err.Error())
	}
	verb, id := os.Getenv("CNI_COMMAND"), os.Getenv("CNI_CONTAINERID")
	lease := filepath.Join(string(conf.Script), "leases", id)
	if verb == "ADD" {
		// Taken before anything can go wrong: who asks has to give it back whatever comes.
		os.MkdirAll(filepath.Dir(lease), 0o755)
		os.WriteFile(lease, nil, 0o644)
	}
	switch action, text := conf.Script.Step(verb, id); action {
	case "fail":
		refuse(conf.CNIVersion, text)
	case "junk":
		fmt.Println("this is not JSON")
		return
	case "noip":
		fmt.Printf(`{"cniVersion":%q}`, conf.CNIVersion)
		return
	}
	switch verb {
	case "VERSION":
		fmt.Println(`{"cniVersion":"1.1.0","supportedVersions":["1.0.0","1.1.0"]}`)
	case "ADD":
		h := fnv.New32()
		h.Write([]byte(id))
		n := h.Sum32()
		fmt.Printf(`{"cniVersion":%q,"interfaces":[{"name":"eth0","sandbox":%q}],"ips":[{"address":"10.%d.%d.%d/8","interface":0}]}`,
			conf.CNIVersion, os.Getenv("CNI_NETNS"), n>>16&255, n>>8&255, n&255)
	case "DEL":
		os.Remove(lease)
	}
}

// refuse reports an error the way plugins do.
func refuse(version, text string) {
	b, _ := json.Marshal(map[string]any{"cniVersion": version, "code": 100, "msg": text})
	fmt.Println(string(b))
	os.Exit(1)
}
