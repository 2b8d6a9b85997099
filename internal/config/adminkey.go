package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// AdminKeyFile is the name, in the data directory, of the file with the admin
// key. The daemon writes it, the command line of the same machine reads it.
const AdminKeyFile = "admin.key"

// WriteAdminKey leaves key in a data directory, readable by the owner only. A
// file that is there is replaced as a whole: it never holds half a key.
func WriteAdminKey(dataDir, key string) error {
	if key == "" {
		return errors.New("admin key: must not be empty")
	}
	if err := checkKey(key); err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	tmp, err := os.CreateTemp(dataDir, "."+AdminKeyFile+"-*") // made with mode 0600
	if err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	defer func() { _ = os.Remove(tmp.Name()) }() // after the rename there is nothing to remove
	_, err = tmp.WriteString(key + "\n")
	if err = errors.Join(err, tmp.Sync(), tmp.Close()); err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	if err := os.Rename(tmp.Name(), filepath.Join(dataDir, AdminKeyFile)); err != nil {
		return fmt.Errorf("admin key: %w", err)
	}
	return nil
}

// ReadAdminKey reads the key that a daemon left in a data directory. It refuses
// a file that somebody else owns or may read: such a key is no secret, or it is
// a trap. One that is not there is fs.ErrNotExist; one that the caller may not
// read, fs.ErrPermission.
func ReadAdminKey(dataDir string) (string, error) {
	path := filepath.Join(dataDir, AdminKeyFile)
	// A link could lead to a file of another user's, a FIFO would block.
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK, 0)
	if err != nil {
		return "", fmt.Errorf("admin key: %w", err)
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return "", fmt.Errorf("admin key: %w", err)
	}
	if err := checkKeyFile(info); err != nil {
		return "", fmt.Errorf("admin key %s %w", path, err)
	}
	data, err := io.ReadAll(io.LimitReader(f, maxKeyBytes+2))
	if err != nil {
		return "", fmt.Errorf("admin key: %w", err)
	}
	key := strings.TrimSpace(string(data))
	if key == "" {
		return "", fmt.Errorf("admin key %s is empty; delete it and start the server again", path)
	}
	if err := checkKey(key); err != nil {
		return "", fmt.Errorf("admin key %s %w; delete it and start the server again", path, err)
	}
	return key, nil
}

func checkKeyFile(info fs.FileInfo) error {
	if !info.Mode().IsRegular() {
		return errors.New("is not a regular file; it is not used")
	}
	if perm := info.Mode().Perm(); perm&0o077 != 0 {
		return fmt.Errorf("can be read or written by others (mode %04o); revoke that key if the machine is shared, or chmod 600 the file", perm)
	}
	// Root owns the key of a system service; anybody else must be the caller.
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 && int(stat.Uid) != os.Geteuid() {
		return fmt.Errorf("belongs to another user (uid %d); it is not used", stat.Uid)
	}
	return nil
}
