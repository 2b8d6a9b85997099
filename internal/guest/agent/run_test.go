package agent

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func TestRunsThatCannotStart(t *testing.T) {
	a := newAgent(t, func(o *Options) { o.Bash = "/nowhere/bash" })
	c := client(t, a)
	for _, tc := range []struct {
		name     string
		language agentsandbox.Language
		spoil    func()
		want     string
	}{
		{"no interpreter", agentsandbox.Bash, func() {}, "start bash: no such file or directory"},
		{"no script", agentsandbox.Python, func() { os.RemoveAll(scriptDir(a)) }, "make room for the script"},
	} {
		tc.spoil()
		r, err := c.Run(deadline(t), runtime.Command{ID: "r", Language: tc.language, Code: "1"})
		if err == nil {
			_, err = r.Next(deadline(t))
			r.Close()
		}
		if !errors.Is(err, runtime.ErrNotStarted) || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: %v", tc.name, err)
		}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if len(a.runs) != 0 {
		t.Errorf("%d runs are left", len(a.runs))
	}
}

// follow opens a stream for a run, as a host does.
func follow(t *testing.T, conn *wire.Conn, req guest.Request) *wire.Stream {
	t.Helper()
	var l opening
	if err := guest.SendDocument(deadline(t), &l, guest.KindRequest, req); err != nil {
		t.Fatal(err)
	}
	s, err := conn.Open(deadline(t), l.kind, l.payload)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

type opening struct {
	kind    uint8
	payload []byte
}

func (o *opening) Send(_ context.Context, kind uint8, payload []byte) error {
	o.kind, o.payload = kind, append([]byte(nil), payload...)
	return nil
}

// take receives numbered messages up to the result, or as many as it is asked
// for, and returns their bytes and the last number.
func take(t *testing.T, s *wire.Stream, after uint64, most int) (string, uint64, bool) {
	t.Helper()
	var out strings.Builder
	for range most {
		m, err := s.Recv(deadline(t))
		if err != nil {
			t.Fatal(err)
		}
		seq, payload, err := guest.ParseSequence(m.Payload)
		if err != nil || seq != after+1 {
			t.Fatalf("message %d after %d, %v", seq, after, err)
		}
		after = seq
		if m.Kind == guest.KindResult {
			return out.String(), after, true
		}
		out.Write(payload)
	}
	return out.String(), after, false
}

func TestRunOutlivesItsConversation(t *testing.T) {
	a := newAgent(t, nil)
	code := "echo one; until test -e go; do sleep 0.01; done; echo two"
	first, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	s := follow(t, first, guest.Request{Method: guest.MethodRun, Run: &guest.RunRequest{ID: "r", Language: "bash", CodeBytes: int64(len(code))}})
	if err := s.Send(deadline(t), guest.KindData, []byte(code)); err != nil {
		t.Fatal(err)
	}
	if out, _, over := take(t, s, 0, 1); out != "one\n" || over {
		t.Fatalf("got %q", out)
	}
	first.Close()
	if err := os.WriteFile(filepath.Join(a.workspace, "go"), nil, 0o644); err != nil {
		t.Fatal(err)
	}

	second, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { second.Close() })
	// What was not acknowledged comes again; so does the result, to whoever
	// asks, until it was taken.
	for after, want := range []string{"one\ntwo\n", "two\n"} {
		s = follow(t, second, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r", After: uint64(after)}})
		if out, _, over := take(t, s, uint64(after), 10); out != want || !over {
			t.Errorf("after %d: %q, %v", after, out, over)
		}
	}
	if err := s.Send(deadline(t), guest.KindAck, guest.AppendSequence(nil, 1)); err != nil {
		t.Fatal(err)
	}
	a.mu.Lock()
	r := a.runs["r"]
	a.mu.Unlock()
	eventually(t, "the acknowledgement arrives", func() bool { return !r.log.has(0) })
	for _, req := range []*guest.RunRequest{{ID: "r"}, {ID: "r", After: 99}, {ID: "none"}, nil} {
		s := follow(t, second, guest.Request{Method: guest.MethodAttach, Run: req})
		var reset *wire.ResetError
		if _, err := s.Recv(deadline(t)); !errors.As(err, &reset) {
			t.Errorf("%+v: %v, want a reset", req, err)
		}
	}
	s = follow(t, second, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r", After: 1}})
	if out, _, over := take(t, s, 1, 10); out != "two\n" || !over {
		t.Errorf("got %q, %v", out, over)
	}
	s.End()
	eventually(t, "a run that was taken is forgotten", func() bool {
		a.mu.Lock()
		defer a.mu.Unlock()
		return len(a.runs) == 0 && len(a.finished) == 0
	})
}

func TestOutputThatNobodyTakesIsBounded(t *testing.T) {
	a := newAgent(t, nil)
	conn, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	code := "yes"
	s := follow(t, conn, guest.Request{Method: guest.MethodRun, Run: &guest.RunRequest{ID: "r", Language: "bash", CodeBytes: int64(len(code))}})
	if err := s.Send(deadline(t), guest.KindData, []byte(code)); err != nil {
		t.Fatal(err)
	}
	take(t, s, 0, 1)
	conn.Close()
	a.mu.Lock()
	r := a.runs["r"]
	a.mu.Unlock()
	eventually(t, "the log fills up", func() bool {
		r.log.mu.Lock()
		defer r.log.mu.Unlock()
		return r.log.bytes >= logBytes
	})
	r.log.mu.Lock()
	if limit := logBytes + 3*pumpSize; r.log.bytes > limit {
		t.Errorf("the log holds %d bytes, more than %d", r.log.bytes, limit)
	}
	r.log.mu.Unlock()

	again, err := wire.Dial(deadline(t), serve(t, a), wire.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { again.Close() })
	s = follow(t, again, guest.Request{Method: guest.MethodAttach, Run: &guest.RunRequest{ID: "r"}})
	after := uint64(0)
	for received := 0; received < 4*logBytes; {
		out, last, _ := take(t, s, after, 1)
		received += len(out)
		after = last
		if err := s.Send(deadline(t), guest.KindAck, guest.AppendSequence(nil, after)); err != nil {
			t.Fatal(err)
		}
	}
	s.Reset(nil)
	select {
	case <-r.proc.Done():
	case <-deadline(t).Done():
		t.Error("a run that was given up does not end")
	}
}

func TestAcknowledgingTooMuchIsRefused(t *testing.T) {
	l := newOutputLog()
	l.append(guest.KindStdout, []byte("a"))
	if err := l.ack(2); err == nil {
		t.Error("message 2 was acknowledged before there was one")
	}
	if err := l.ack(1); err != nil || l.bytes != 0 || len(l.records) != 0 {
		t.Errorf("%v, %d bytes, %d records", err, l.bytes, len(l.records))
	}
	if err := l.ack(1); err != nil {
		t.Errorf("an old acknowledgement: %v", err)
	}
}

func TestOldestFinishedRunsAreForgotten(t *testing.T) {
	a := newAgent(t, nil)
	for i := range maxFinished + 3 {
		r := &run{a: a, req: &guest.RunRequest{ID: strconv.Itoa(i)}, log: newOutputLog(), dropped: make(chan struct{})}
		a.runs[r.req.ID] = r
		a.keepFinished(r)
	}
	if len(a.runs) != maxFinished || a.runs["0"] != nil || a.runs["3"] == nil {
		t.Errorf("%d runs are kept", len(a.runs))
	}
}
