package cgroup

type statFiles struct{}

func (*statFiles) close() {}
