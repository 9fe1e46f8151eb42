package quick

// Record is record for tests.
type Record struct {
	Pid           int
	Boot, Dirs    string
	Start, Delete bool
}

// Parse is parse for tests.
func Parse(s string) (Record, bool) {
	r, ok := parse(s)
	return Record{r.pid, r.boot, r.dirs, r.start, r.delete}, ok
}
