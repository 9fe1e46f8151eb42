package overlay

// ReadFileByHand is ReadFile as it works where the kernel does not merge.
func ReadFileByHand(layers []string, name string, max int64) ([]byte, error) {
	return read(func() (int, error) { return walk(layers, name) }, name, max)
}
