// Package image is the image service below the CRI: it pulls images, names them, keeps their unpacked layers, and
// says which directories make up a root file system. It does not know what a pod is, mounts nothing, and never logs.
//
//	Pull -> registry (what is it?)         image/registry
//	     -> layers side by side, streamed  download -> digest -> decompress -> digest -> jailed child     image/layer
//	     -> commit                         one syncfs, renames, one record
//	Resolve, List, Usage                   an immutable snapshot: no lock, no disk
//	Image.Layers                           ready as lowerdir, top first; ReadFile without a mount         image/overlay
//
// On disk, below Options.Root:
//
//	images/sha256-<hex>.json    one record per image: configuration, names, layers
//	layers/sha256-<hex>/        one unpacked layer, named by its diff id: fs/ and layer.json; shared by all images that have it
//	layers/fix-<hex>/           directories whose attributes a layer implied and a lower layer knows better (see fix.go)
//	layers/.staging/            layers being unpacked, thrown away at start
//	layers/.trash/              layers being removed
//
// # Durability
//
// Commit is a rename of something durable. All layers of an image are unpacked in staging; then the file system is synced once (one
// syncfs(2) for the image, not one fsync per file: half the time on ext4, and it reports write errors since Linux 5.8), the layers
// are renamed into place, their directory is synced, and the record is written, synced and renamed. A power cut leaves
// an image whole or absent. There is no database: names are derived from the records, damage to
// a record or layer costs the images that have it and nothing else, and the next pull brings them back.
//
// # Lives
//
// A layer lives while an image names it, a pull needs it or an owner holds it (Hold, Keep); then its directory is renamed to the trash and
// removed in the background. After a start nothing is freed before Collect, so that owners can say what they still hold.
package image
