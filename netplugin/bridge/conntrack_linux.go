package bridge

// flushConntrack makes the kernel forget UDP connections to host ports whose translation changed: they would keep
// the old one as long as packets come.
func flushConntrack(es []element) error { return nil }
