package erofs

import (
	"crypto/sha256"
	"encoding/binary"
	"hash/crc32"
	"io/fs"
	"slices"
	"strings"
)

// On-disk sizes and numbers.
const (
	magic           = 0xE0F5E1E2
	superOffset     = 1024
	inodeSize       = 64 // the extended form: 32-bit owners and 64-bit sizes
	slotSize        = 32 // inode numbers count slots of this size
	direntSize      = 12
	firstSlot       = 2 // inode number 0 would look like a deleted entry
	layoutPlain     = 0
	layoutInline    = 2
	formatExtended  = 1
	featureChecksum = 0x1
	featureMtime    = 0x2

	volumeName = "agentsandbox"

	kindRegular = 1
	kindDir     = 2
	kindSymlink = 7
)

var modeTypes = [8]uint16{kindRegular: 0o100000, kindDir: 0o040000, kindSymlink: 0o120000}

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// dirent is one entry of a directory, "." and ".." included.
type dirent struct {
	name string
	node *node
}

// layout says where each inode goes. The image is: the super block, the contents
// of files, and the metadata, which is the inodes (with links and small
// directories inline) followed by the blocks of large directories.
type layout struct {
	root      *node
	start     uint32 // block of the metadata
	nodes     []*node
	slots     int64 // bytes of the inodes
	dirBlocks uint32
}

// planLayout numbers the inodes below root, depth first, so that a directory is
// near to what it lists.
func planLayout(root *node, start uint32) *layout {
	l := &layout{root: root, start: start, slots: firstSlot * slotSize}
	seen := map[*node]bool{}
	var walk func(n, parent *node)
	walk = func(n, parent *node) {
		if seen[n] {
			n.links++
			return
		}
		seen[n] = true
		n.parent, n.links = parent, 1
		l.place(n)
		for _, name := range n.names() {
			child := n.children[name]
			walk(child, n)
			if child.kind == kindDir {
				n.links++
			}
		}
		if n.kind == kindDir {
			n.links++
		}
	}
	walk(root, root)

	next := l.start + blocksOf(l.slots)
	for _, n := range l.nodes {
		if n.kind == kindDir && !n.inline() {
			n.block = next
			next += blocksOf(n.size)
		}
	}
	l.dirBlocks = next - l.start - blocksOf(l.slots)
	return l
}

// place gives an inode its number. Neither the inode nor what is inline behind it
// may cross the end of a block.
func (l *layout) place(n *node) {
	if n.kind == kindDir {
		n.dirents = append(n.dirents[:0], dirent{".", n}, dirent{"..", n.parent})
		for _, name := range n.names() {
			n.dirents = append(n.dirents, dirent{name, n.children[name]})
		}
		slices.SortFunc(n.dirents, func(a, b dirent) int { return strings.Compare(a.name, b.name) })
		n.size = int64(len(encodeDirents(n.dirents)))
	}
	need := int64(inodeSize)
	if n.inline() {
		need += n.size
	}
	if l.slots%blockSize+need > blockSize {
		l.slots = int64(blocksOf(l.slots)) << blockBits
	}
	n.nid = uint64(l.slots / slotSize)
	l.nodes = append(l.nodes, n)
	n.ino = uint32(len(l.nodes))
	l.slots = (l.slots + need + slotSize - 1) / slotSize * slotSize
}

// inline tells whether the content stands behind the inode.
func (n *node) inline() bool {
	switch n.kind {
	case kindSymlink:
		return true
	case kindDir:
		return n.size <= blockSize-inodeSize
	}
	return false
}

// encode returns the metadata, whole blocks of it.
func (l *layout) encode(unix int64) []byte {
	meta := make([]byte, int64(blocksOf(l.slots)+l.dirBlocks)<<blockBits)
	for _, n := range l.nodes {
		at := meta[n.nid*slotSize:]
		n.encode(at, unix)
		switch {
		case n.kind == kindSymlink:
			copy(at[inodeSize:], n.target)
		case n.kind == kindDir && n.inline():
			copy(at[inodeSize:], encodeDirents(n.dirents))
		case n.kind == kindDir:
			copy(meta[int64(n.block-l.start)<<blockBits:], encodeDirents(n.dirents))
		}
	}
	return meta
}

func (n *node) encode(b []byte, unix int64) {
	form := uint16(formatExtended | layoutPlain<<1)
	if n.inline() {
		form = formatExtended | layoutInline<<1
	}
	mode := modeTypes[n.kind] | uint16(n.attr.Mode.Perm())
	if n.attr.Mode&fs.ModeSticky != 0 {
		mode |= 0o1000
	}
	le := binary.LittleEndian
	le.PutUint16(b[0:], form)
	le.PutUint16(b[4:], mode)
	le.PutUint64(b[8:], uint64(n.size))
	le.PutUint32(b[16:], n.block)
	le.PutUint32(b[20:], n.ino)
	le.PutUint32(b[24:], n.attr.UID)
	le.PutUint32(b[28:], n.attr.GID)
	le.PutUint64(b[32:], uint64(unix))
	le.PutUint32(b[44:], n.links)
}

// encodeDirents packs a directory: in each block first the fixed parts, then the
// names; every block but the last is filled up with zeros.
func encodeDirents(entries []dirent) []byte {
	var out []byte
	for len(entries) > 0 {
		used, count := 0, 0
		for _, e := range entries {
			if used+direntSize+len(e.name) > blockSize {
				break
			}
			used += direntSize + len(e.name)
			count++
		}
		block := make([]byte, count*direntSize, used)
		for i, e := range entries[:count] {
			at := block[i*direntSize:]
			binary.LittleEndian.PutUint64(at, e.node.nid)
			binary.LittleEndian.PutUint16(at[8:], uint16(len(block)))
			at[10] = e.node.kind
			block = append(block, e.name...)
		}
		out = append(out, block...)
		if entries = entries[count:]; len(entries) > 0 {
			out = append(out, make([]byte, blockSize-used)...)
		}
	}
	return out
}

// superBlock returns the first block of the image with that metadata.
func (l *layout) superBlock(meta []byte, unix int64) []byte {
	block := make([]byte, blockSize)
	b := block[superOffset:]
	le := binary.LittleEndian
	le.PutUint32(b[0:], magic)
	le.PutUint32(b[8:], featureChecksum|featureMtime)
	b[12] = blockBits
	le.PutUint16(b[14:], uint16(l.root.nid))
	le.PutUint64(b[16:], uint64(len(l.nodes)))
	le.PutUint64(b[24:], uint64(unix))
	le.PutUint32(b[36:], l.start+uint32(len(meta)/blockSize))
	le.PutUint32(b[40:], l.start)
	// The volume's id follows from the metadata, so that equal inputs give equal
	// bytes.
	id := sha256.Sum256(meta)
	copy(b[48:64], id[:])
	copy(b[64:80], volumeName)
	// The format's checksum is CRC-32C without the final inversion.
	le.PutUint32(b[4:], ^crc32.Checksum(b, castagnoli))
	return block
}

func blocksOf(size int64) uint32 {
	return uint32((size + blockSize - 1) >> blockBits)
}
