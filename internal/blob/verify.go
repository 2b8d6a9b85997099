package blob

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"sync"
	"syscall"
	"time"
)

// ErrDamaged says that contents are not what was stored.
var ErrDamaged = errors.New("the contents are damaged")

// verified remembers which contents were read whole and found to be what was
// stored, so that they are not read twice each time. It is for files that have
// not been touched since: times and inode are those from then.
type verified struct {
	mu    sync.Mutex
	files map[string]stamp
}

// maxVerified bounds what is remembered. When it is reached, all is forgotten.
const maxVerified = 1 << 16

type stamp struct {
	inode           uint64
	size            int64
	written, change time.Time
}

func stampOf(info os.FileInfo) (stamp, bool) {
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return stamp{}, false
	}
	return stamp{st.Ino, info.Size(), info.ModTime(), time.Unix(st.Ctim.Unix())}, true
}

func (v *verified) knows(id string, s stamp) bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.files[id] == s
}

func (v *verified) add(id string, s stamp) {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.files == nil || len(v.files) >= maxVerified {
		v.files = map[string]stamp{}
	}
	v.files[id] = s
}

func (v *verified) drop(id string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	delete(v.files, id)
}

// verify fails with ErrDamaged unless f, open at its start, has what was stored,
// and leaves it at its start.
func (d *Dir) verify(id string, f *os.File, info os.FileInfo, want Info) error {
	if info.Size() != want.SizeBytes {
		return fmt.Errorf("%w: %d bytes are there, %d were stored", ErrDamaged, info.Size(), want.SizeBytes)
	}
	s, ok := stampOf(info)
	if ok && d.verified.knows(id, s) {
		return nil
	}
	buffer := d.buffers.Get().(*[bufferBytes]byte)
	defer d.buffers.Put(buffer)
	hash := sha256.New()
	n, err := io.CopyBuffer(hash, struct{ io.Reader }{f}, buffer[:])
	if err != nil {
		return fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	if got := hex.EncodeToString(hash.Sum(nil)); n != want.SizeBytes || got != want.SHA256 {
		return fmt.Errorf("%w: their SHA-256 is %s, and %s was stored", ErrDamaged, got, want.SHA256)
	}
	if ok {
		d.verified.add(id, s)
	}
	_, err = f.Seek(0, io.SeekStart)
	return err
}
