package bridge

import "github.com/containernetworking/cni/pkg/skel"

func collect(args *skel.CmdArgs) error { return nil }

func check(args *skel.CmdArgs) error { return nil }
