package layer

// ProbeJail enters the jail and calls f there.
func ProbeJail(dir string, f func() string) string {
	if _, err := enterJail(dir); err != nil {
		return err.Error()
	}
	return f()
}
