package eventlog

import (
	"encoding/json"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// markData is a runtime.Progress in a mark. Changed are the files since the mark
// before. Paths are bytes, which need not be UTF-8.
type markData struct {
	Sequence uint64       `json:"sequence"`
	Stdout   int64        `json:"stdout,omitempty"`
	Stderr   int64        `json:"stderr,omitempty"`
	Changed  []markedFile `json:"changed,omitempty"`
}

type markedFile struct {
	Path       []byte                `json:"path"`
	Kind       agentsandbox.PathKind `json:"kind"`
	SizeBytes  int64                 `json:"size_bytes"`
	Mode       uint32                `json:"mode"`
	ModifiedAt time.Time             `json:"modified_at"`
	Target     []byte                `json:"target,omitempty"`
}

// encodeMark encodes p without the first files of Changed, which earlier marks have.
func encodeMark(p runtime.Progress, marked int) ([]byte, error) {
	m := markData{Sequence: p.Sequence, Stdout: p.Stdout, Stderr: p.Stderr}
	for _, f := range p.Changed[marked:] {
		m.Changed = append(m.Changed, markedFile{[]byte(f.Path), f.Kind, f.SizeBytes, f.Mode, f.ModifiedAt, []byte(f.Target)})
	}
	return json.Marshal(m)
}

// addMark goes on from p to the place that a mark tells.
func addMark(p *runtime.Progress, data []byte) error {
	var m markData
	if err := json.Unmarshal(data, &m); err != nil {
		return err
	}
	p.Sequence, p.Stdout, p.Stderr = m.Sequence, m.Stdout, m.Stderr
	for _, f := range m.Changed {
		p.Changed = append(p.Changed, agentsandbox.PathInfo{
			Path: string(f.Path), Kind: f.Kind, SizeBytes: f.SizeBytes, Mode: f.Mode, ModifiedAt: f.ModifiedAt, Target: string(f.Target),
		})
	}
	return nil
}
