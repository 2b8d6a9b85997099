package engine_test

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"time"

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

// slow is a client that sends one byte and then nothing, until it is interrupted.
type slow struct {
	first       sync.Once
	waiting     chan struct{}
	interrupted chan struct{}
	once        sync.Once
}

func newSlow() *slow { return &slow{waiting: make(chan struct{}), interrupted: make(chan struct{})} }

func (s *slow) Interrupt() { s.once.Do(func() { close(s.interrupted) }) }

func (s *slow) Read(b []byte) (int, error) {
	sent := 0
	s.first.Do(func() { b[0], sent = 'x', 1 })
	if sent > 0 {
		return sent, nil
	}
	close(s.waiting)
	<-s.interrupted
	return 0, fmt.Errorf("interrupted: %w", context.Canceled)
}

// TestASlowClientHoldsNobodyUp: whatever a client is slow at, a session ends
// without it, in each of the ways in which one ends.
func TestASlowClientHoldsNobodyUp(t *testing.T) {
	type client func(f *fixture, ctx context.Context, id string) (waiting <-chan struct{}, ended <-chan error)
	sends := func(send func(f *fixture, ctx context.Context, id string, body io.Reader) error) client {
		return func(f *fixture, ctx context.Context, id string) (<-chan struct{}, <-chan error) {
			body, ended := newSlow(), make(chan error, 1)
			go func() { ended <- send(f, ctx, id, body) }()
			return body.waiting, ended
		}
	}
	clients := map[string]client{
		"an upload": sends(func(f *fixture, ctx context.Context, id string, body io.Reader) error {
			_, err := f.UploadFile(ctx, agentsandbox.FileUpload{Filename: "x", SessionID: id}, body)
			return err
		}),
		"a write": sends(func(f *fixture, ctx context.Context, id string, body io.Reader) error {
			_, err := f.WritePath(ctx, id, agentsandbox.Workspace+"/x", body)
			return err
		}),
		"a reader that never reads": func(f *fixture, ctx context.Context, id string) (<-chan struct{}, <-chan error) {
			waiting, ended := make(chan struct{}), make(chan error, 1)
			f.bash(ctx, id, "head -c 4000000 /dev/zero > large")
			_, r, err := f.ReadPath(ctx, id, agentsandbox.Workspace+"/large")
			if err != nil {
				ended <- err
			} else {
				context.AfterFunc(f.t.Context(), func() { _ = r.Close() })
			}
			close(waiting)
			return waiting, ended
		},
	}
	ends := map[string]func(f *fixture, ctx context.Context, id string, forward func()){
		"DELETE": func(f *fixture, ctx context.Context, id string, _ func()) {
			if err := f.DeleteSession(ctx, id); err != nil {
				f.t.Error(err)
			}
		},
		"the end of the server": func(f *fixture, _ context.Context, _ string, _ func()) {
			over, cancel := context.WithCancel(context.Background())
			cancel() // no grace
			f.Close(over)
		},
		"its longest life": func(f *fixture, ctx context.Context, id string, forward func()) {
			forward()
			f.Tidy()
			until(f.t, "the session is recorded as expired", func() bool {
				row, err := f.Store.Session(ctx, "a", id)
				return err == nil && row.Status == agentsandbox.SessionExpired && f.alive() == 0
			})
		},
	}
	for how, end := range ends {
		for what, begin := range clients {
			t.Run(how+" with "+what, func(t *testing.T) {
				f, _, forward, ctx := wired(t)
				s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{MaxLifetimeMS: 60_000})
				if err != nil {
					t.Fatal(err)
				}
				waiting, ended := begin(f, ctx, s.ID)
				<-waiting
				end(f, ctx, s.ID, func() { forward(time.Hour) })
				if what == "a reader that never reads" {
					return
				}
				err = <-ended
				want := agentsandbox.CodeSessionNotFound
				if how == "the end of the server" {
					want = agentsandbox.CodeUnavailable
				}
				wantCode(t, err, want)
			})
		}
	}
}

// TestAReaderHearsWhyItsSessionEnded and not that the sandbox died.
func TestAReaderHearsWhyItsSessionEnded(t *testing.T) {
	f := newFixture(t, t.TempDir())
	ctx := as(t, "a")
	s, err := f.CreateSession(ctx, agentsandbox.SessionRequest{})
	if err != nil {
		t.Fatal(err)
	}
	f.bash(ctx, s.ID, "head -c 4000000 /dev/zero > large")
	_, r, err := f.ReadPath(ctx, s.ID, agentsandbox.Workspace+"/large")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if err := f.DeleteSession(ctx, s.ID); err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, r)
	wantCode(t, err, agentsandbox.CodeSessionNotFound)
}
