// Package vault owns the key of a data directory: what must not stand in clear in
// the database is sealed with it, and what the server must know again as its own,
// when a stranger shows it, is a token made with it.
//
// It must not know what is sealed, or what a token stands for. What cannot be
// opened is an error, whether it was damaged, is another's, or was made for
// another purpose.
package vault

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

const (
	// File is the name of the key in a data directory.
	File = "vault.key"
	// keyBytes is how long it is.
	keyBytes = 32
)

// Vault seals and makes tokens. It is safe for concurrent use.
type Vault struct {
	seal cipher.AEAD
	sign []byte
}

// ErrNotOurs says that what was shown was not sealed here, or not for
// this purpose.
var ErrNotOurs = errors.New("it was not made with the key of this data directory")

// Open reads the key of a data directory, or makes one, readable by its owner
// alone.
func Open(dir string) (*Vault, error) {
	path := filepath.Join(dir, File)
	key, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		key, err = create(path)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("vault: %w", err)
	case len(key) != keyBytes:
		return nil, fmt.Errorf("vault: %s must have %d bytes and has %d: put the right one back, or delete it, and what was sealed with it is lost", path, keyBytes, len(key))
	}
	return newVault(key)
}

func newVault(key []byte) (*Vault, error) {
	sealing, err := hkdf.Key(sha256.New, key, nil, "agentsandbox seal", keyBytes)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	signing, err := hkdf.Key(sha256.New, key, nil, "agentsandbox sign", keyBytes)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	block, err := aes.NewCipher(sealing)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("vault: %w", err)
	}
	return &Vault{seal: aead, sign: signing}, nil
}

// create makes a key, under a temporary name first: half a key must never be
// taken for one. The caller holds the data directory.
func create(path string) ([]byte, error) {
	key := make([]byte, keyBytes)
	_, _ = rand.Read(key) // never fails: crypto/rand ends the program instead
	f, err := os.CreateTemp(filepath.Dir(path), "."+File+"-*")
	if err != nil {
		return nil, err
	}
	defer os.Remove(f.Name()) // after the rename there is nothing
	_, err = f.Write(key)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return nil, err
	}
	return key, os.Rename(f.Name(), path)
}

// Seal makes bytes unreadable for whoever lacks the key. The label says what they
// are, and must be given again to open them.
func (v *Vault) Seal(plain []byte, label string) []byte {
	return v.seal.Seal(nil, nil, plain, []byte(label))
}

// Unseal opens what Seal made under the same label.
func (v *Vault) Unseal(sealed []byte, label string) ([]byte, error) {
	plain, err := v.seal.Open(nil, nil, sealed, []byte(label))
	if err != nil {
		return nil, ErrNotOurs
	}
	return plain, nil
}

// Token returns a text that is safe in a path, the same for the same payload and
// label. It tells nothing of either, and nobody without the key can make it.
func (v *Vault) Token(payload []byte, label string) string {
	return base64.RawURLEncoding.EncodeToString(v.mac(payload, label))
}

func (v *Vault) mac(payload []byte, label string) []byte {
	h := hmac.New(sha256.New, v.sign)
	h.Write([]byte(label))
	h.Write([]byte{0})
	h.Write(payload)
	return h.Sum(nil)
}
