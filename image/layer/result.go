package layer

// Limits bound what one layer may unpack to. Zero means the default.
type Limits struct {
	Bytes   int64 // content of regular files, holes of sparse files included; default 256 GiB
	Entries int64 // headers in the archive; default 16 Mi
}

func (l Limits) orDefault() Limits {
	if l.Bytes <= 0 {
		l.Bytes = 256 << 30
	}
	if l.Entries <= 0 {
		l.Entries = 16 << 20
	}
	return l
}

// Result says what a layer became on disk.
type Result struct {
	// Bytes is the space used, in whole 4 KiB blocks; Inodes the number of files, directories and whiteouts.
	Bytes  uint64 `json:"bytes"`
	Inodes uint64 `json:"inodes"`
	// Implied lists the directories that were needed by a name in the archive but not described by it, the root
	// included as ".". They were made with mode 0755, owner 0:0.
	Implied []string `json:"implied,omitempty"`
	// Opaque lists the directories that hide those of lower layers. The parent sets their attribute.
	Opaque []string `json:"opaque,omitempty"`
}

const block = 4096

// maxReport bounds what the parent reads from the child; it is some 10^5 directories.
const maxReport = 64 << 20
