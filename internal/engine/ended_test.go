package engine_test

import (
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

// endless calls a function before its first byte, and has no last one.
type endless struct{ first func() }

func (r *endless) Read(b []byte) (int, error) {
	if r.first != nil {
		r.first()
		r.first = nil
	}
	b[0] = 'x'
	return 1, nil
}

// TestWorkInASessionThatIsDeleted: whoever is at work in it hears that it was
// deleted, not that its sandbox died.
func TestWorkInASessionThatIsDeleted(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	deleted := make(chan error, 1)
	body := &endless{first: func() {
		go func() { deleted <- f.DeleteSession(ctx, s.ID) }()
	}}
	_, err = f.WritePath(ctx, s.ID, agentsandbox.Workspace+"/large", body)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
	if err != nil && !strings.Contains(err.Error(), "was deleted") {
		t.Errorf("the error is %v", err)
	}
	if err := <-deleted; err != nil {
		t.Error(err)
	}
}
