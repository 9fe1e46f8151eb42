package main

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"

	"github.com/berth-runtime/berth/oci/launch"
)

func (a *app) features(_ context.Context, _ []string) (int, error) {
	e := json.NewEncoder(os.Stdout)
	e.SetIndent("", "  ")
	return 0, e.Encode(launch.Features())
}

// spec writes a config.json to start from.
func (a *app) spec(_ context.Context, args []string) (int, error) {
	f := flags("spec")
	dir := f.String("bundle", ".", "directory to write to")
	f.StringVar(dir, "b", ".", "directory to write to")
	f.Bool("rootless", false, "accepted for compatibility")
	if _, err := parse(f, args, 0); err != nil {
		return 1, err
	}
	b, err := json.MarshalIndent(launch.Example(), "", "\t")
	if err != nil {
		return 1, err
	}
	out, err := os.OpenFile(filepath.Join(*dir, "config.json"), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return 1, err
	}
	defer out.Close()
	_, err = out.Write(append(b, '\n'))
	return 0, err
}
