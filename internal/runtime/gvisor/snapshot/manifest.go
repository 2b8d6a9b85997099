package snapshot

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// format changes when the meaning of a snapshot directory does.
const format = 2

// manifestFile is written last: a snapshot without it is none.
const manifestFile = "manifest.json"

// Inputs are all that a snapshot depends on. Their digest is its id.
type Inputs struct {
	Format        int                  `json:"format"`
	Kind          runtime.SnapshotKind `json:"kind"`
	ImageDigest   string               `json:"image_digest"`
	GVisorVersion string               `json:"gvisor_version"`
	GVisorFlags   []string             `json:"gvisor_flags"`
	GuestProtocol int                  `json:"guest_protocol"`
	// CPUs is how many processors programs see, and DiskBytes bounds what a sandbox
	// can write.
	CPUs      int   `json:"cpus"`
	DiskBytes int64 `json:"disk_bytes"`
	// Modules are what the interpreter that waits has loaded.
	Modules []string `json:"modules,omitempty"`
	// CPUFeatures is the digest of what the processor can do: gVisor refuses to
	// restore on one that can do less.
	CPUFeatures string `json:"cpu_features"`
	// Spec is the OCI spec, with which gVisor compares that of a restore.
	Spec json.RawMessage `json:"spec"`
}

func (in Inputs) id() (string, error) {
	b, err := json.Marshal(in)
	if err != nil {
		return "", fmt.Errorf("id of a snapshot: %w", err)
	}
	return digest(b), nil
}

// digestSize is how much of a digest names something, in bytes.
const digestSize = 16

func digest(b []byte) string {
	sum := sha256.Sum256(b)
	return hex.EncodeToString(sum[:digestSize])
}

// manifest is the file that says what belongs to a snapshot, so that a damaged one
// is noticed, and what it needs.
type manifest struct {
	// Made names this making of the snapshot.
	Made   string    `json:"made"`
	MadeAt time.Time `json:"made_at"`
	Inputs Inputs    `json:"inputs"`
	Files  []file    `json:"files"`
}

type file struct {
	Name      string `json:"name"`
	SizeBytes int64  `json:"size_bytes"`
	SHA256    string `json:"sha256"`
}

func readManifest(dir string) (manifest, error) {
	var m manifest
	b, err := os.ReadFile(filepath.Join(dir, manifestFile))
	if err != nil {
		return m, err
	}
	if err := json.Unmarshal(b, &m); err != nil {
		return m, fmt.Errorf("manifest of a snapshot: %w", err)
	}
	if m.Inputs.Format != format {
		return m, fmt.Errorf("manifest of a snapshot: format %d, not %d", m.Inputs.Format, format)
	}
	return m, nil
}

func (m manifest) write(dir string) error {
	text, err := json.MarshalIndent(m, "", "\t")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, manifestFile), text, 0o600)
}

// addFiles lists every file of a directory.
func (m *manifest) addFiles(dir string) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		f, err := readFile(dir, e.Name())
		if err != nil {
			return err
		}
		m.Files = append(m.Files, f)
	}
	return nil
}

// describe is the manifest as the contract has it.
func (m manifest) describe(id string) runtime.Manifest {
	d := runtime.Manifest{
		ID: id, Kind: m.Inputs.Kind, Image: m.Inputs.ImageDigest, Modules: m.Inputs.Modules,
		CPUs: m.Inputs.CPUs, DiskBytes: m.Inputs.DiskBytes,
		Kernel: m.Inputs.GVisorVersion, Protocol: m.Inputs.GuestProtocol, CPUFeatures: m.Inputs.CPUFeatures,
		MadeAt: m.MadeAt,
	}
	for _, f := range m.Files {
		d.SizeBytes += f.SizeBytes
	}
	return d
}

// whole tells whether every file is as the manifest says: its size, and its
// content if asked.
func (m manifest) whole(dir string, content bool) bool {
	for _, f := range m.Files {
		if !f.matches(dir, content) {
			return false
		}
	}
	return true
}

func readFile(dir, name string) (file, error) {
	f, err := os.Open(filepath.Join(dir, name))
	if err != nil {
		return file{}, err
	}
	defer f.Close()
	h := sha256.New()
	n, err := io.Copy(h, f)
	return file{Name: name, SizeBytes: n, SHA256: hex.EncodeToString(h.Sum(nil))}, err
}

func (f file) matches(dir string, content bool) bool {
	if !content {
		info, err := os.Stat(filepath.Join(dir, f.Name))
		return err == nil && info.Size() == f.SizeBytes
	}
	now, err := readFile(dir, f.Name)
	return err == nil && now == f
}
