package store_test

import (
	"bytes"
	"context"
	"maps"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

// FuzzRows writes a session and an execution of any text: they are refused, or
// read back as they were, and only by their tenant.
func FuzzRows(f *testing.F) {
	f.Add("tenant", "job", "7", []byte("out\xff\x00"), "print(1)")
	f.Add("", "\x00", "\u2028", []byte(nil), "'; DROP TABLE sessions; --")
	f.Add("a%", "\xff", "{}", []byte("\xed\xa0\x80"), "\xfe")
	db, err := store.Open(context.Background(), f.TempDir(), store.Options{})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() {
		if err := db.Close(); err != nil {
			f.Error(err)
		}
	})
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	f.Fuzz(func(t *testing.T, tenant, name, value string, output []byte, code string) {
		tenant = "t" + tenant // there is always one
		ctx := t.Context()
		s := agentsandbox.Session{
			ID: agentsandbox.NewID(agentsandbox.SessionPrefix), Tenant: tenant, Status: agentsandbox.SessionLive, Template: "default",
			Env: map[string]string{name: value}, Metadata: map[string]string{value: name}, CreatedAt: at,
		}
		if err := db.InsertSession(ctx, s, nil); err != nil {
			if agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
				t.Fatalf("session: %v", err)
			}
		} else {
			got, err := db.Session(ctx, tenant, s.ID)
			if err != nil || !maps.Equal(got.Env, s.Env) || !maps.Equal(got.Metadata, s.Metadata) || got.Tenant != tenant {
				t.Fatalf("wrote %+v, read %+v, %v", s, got, err)
			}
			if _, err := db.Session(ctx, tenant+"x", s.ID); agentsandbox.CodeOf(err) != agentsandbox.CodeSessionNotFound {
				t.Fatalf("another tenant: %v", err)
			}
		}
		e := agentsandbox.Execution{
			ID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Tenant: tenant, SessionID: s.ID, Language: agentsandbox.Python, Code: code,
			Status: agentsandbox.StatusRunning, Meta: map[string]string{"request_id": value}, CreatedAt: at,
		}
		if err := db.InsertExecution(ctx, e, "", nil); err != nil {
			if agentsandbox.CodeOf(err) != agentsandbox.CodeInvalidRequest {
				t.Fatalf("execution: %v", err)
			}
			return
		}
		e.Status, e.StdoutBytes, e.EndedAt, e.HTTPStatus = agentsandbox.StatusSucceeded, int64(len(output)), at, 200
		log := eventlog.Sealed{Size: int64(len(output)), Stdout: int64(len(output)), Inline: output}
		if finished, err := db.FinishExecution(ctx, e, log); err != nil || !finished {
			t.Fatalf("finish: %v, %v", finished, err)
		}
		got, kept, err := db.Execution(ctx, tenant, e.ID)
		if err != nil || got.Code != code || !bytes.Equal(kept.Inline, output) || got.Meta["request_id"] != value {
			t.Fatalf("wrote %+v, read %+v, %v", e, got, err)
		}
	})
}
