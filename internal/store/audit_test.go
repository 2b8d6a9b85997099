package store_test

import (
	"database/sql"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/store"
)

func appendAudit(t *testing.T, db *store.DB, rows int) {
	t.Helper()
	for range rows {
		err := db.AppendAudit(t.Context(), agentsandbox.AuditEntry{
			At: time.Now(), Tenant: "t", KeyID: "key_1", RequestID: "req_1", Remote: "127.0.0.1:9",
			Action: "execute", ObjectID: "exe_1", Outcome: agentsandbox.AuditOK,
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

func verify(t *testing.T, dir, head string) agentsandbox.AuditReport {
	t.Helper()
	report, err := store.VerifyAudit(t.Context(), dir, head)
	if err != nil {
		t.Fatal(err)
	}
	return report
}

// tamper changes the database behind the store's back.
func tamper(t *testing.T, dir, statement string) {
	t.Helper()
	pool, err := sql.Open("sqlite", "file:"+filepath.Join(dir, store.DatabaseName))
	if err != nil {
		t.Fatal(err)
	}
	defer pool.Close()
	if _, err := pool.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func TestVerifyAudit(t *testing.T) {
	dir := t.TempDir()
	db := open(t, dir)
	if r := verify(t, dir, ""); r.Rows != 0 || r.Broken != 0 || r.Head != strings.Repeat("0", 64) {
		t.Errorf("an empty log: %+v", r)
	}
	appendAudit(t, db, 5)
	early := verify(t, dir, "") // beside the store that writes
	if early.Rows != 5 || early.Broken != 0 || len(early.Head) != 64 {
		t.Errorf("%+v", early)
	}
	shut(t, db)
	db = open(t, dir) // the chain goes on
	appendAudit(t, db, 5)
	shut(t, db)
	late := verify(t, dir, early.Head)
	if late.Rows != 10 || late.Broken != 0 {
		t.Errorf("%+v", late)
	}
	if r := verify(t, dir, strings.Repeat("0", 64)); r.Broken != 0 {
		t.Errorf("every log goes on from the empty one: %+v", r)
	}

	// Cut off at the end: whole, but not the log that it was.
	tamper(t, dir, "DELETE FROM audit WHERE seq > 7")
	if r := verify(t, dir, early.Head); r.Rows != 7 || r.Broken != 0 {
		t.Errorf("%+v", r)
	}
	if r := verify(t, dir, late.Head); r.Broken != 8 || !strings.Contains(r.Reason, "cut off") {
		t.Errorf("%+v", r)
	}
}

func TestVerifyAuditSaysWhichDirectoryIsWanted(t *testing.T) {
	_, err := store.VerifyAudit(t.Context(), t.TempDir(), "")
	if err == nil || !strings.Contains(err.Error(), "--data-dir") {
		t.Errorf("%v", err)
	}
}

func TestVerifyAuditFindsEveryChange(t *testing.T) {
	for statement, broken := range map[string]int64{
		"UPDATE audit SET at = at + 1 WHERE seq = 2":                                    2,
		"UPDATE audit SET tenant = 'x' WHERE seq = 1":                                   1,
		"UPDATE audit SET key_id = '' WHERE seq = 3":                                    3,
		"UPDATE audit SET request_id = 'r' WHERE seq = 3":                               3,
		"UPDATE audit SET remote = '' WHERE seq = 3":                                    3,
		"UPDATE audit SET action = 'x' WHERE seq = 6":                                   6,
		"UPDATE audit SET object_id = 'exe_2' WHERE seq = 4":                            4,
		"UPDATE audit SET outcome = 'forbidden' WHERE seq = 4":                          4,
		"UPDATE audit SET detail = 'x' WHERE seq = 4":                                   4,
		"UPDATE audit SET hash = zeroblob(32) WHERE seq = 4":                            4,
		"DELETE FROM audit WHERE seq = 1":                                               1,
		"DELETE FROM audit WHERE seq = 3":                                               3,
		"DELETE FROM audit WHERE seq IN (3, 4)":                                         3,
		"DELETE FROM audit WHERE seq = 3; UPDATE audit SET seq = seq - 1 WHERE seq > 3": 3,
		"UPDATE audit SET seq = 100 WHERE seq = 2":                                      2,
		"UPDATE audit SET tenant = 'tk', key_id = 'ey_1' WHERE seq = 5":                 5,
		"UPDATE audit SET object_id = CAST('exe_1' AS TEXT) || char(0) WHERE seq = 5":   5,
		"INSERT INTO audit SELECT 7, at, tenant, key_id, request_id, remote, action, object_id, outcome, detail, hash FROM audit WHERE seq = 6": 7,
	} {
		dir := t.TempDir()
		db := open(t, dir)
		appendAudit(t, db, 6)
		shut(t, db)
		tamper(t, dir, statement)
		if r := verify(t, dir, ""); r.Broken != broken || r.Reason == "" || r.Rows != broken-1 {
			t.Errorf("%s: %+v, want row %d", statement, r, broken)
		}
	}
	if _, err := store.VerifyAudit(t.Context(), t.TempDir(), ""); err == nil {
		t.Error("a directory without a database was verified")
	}
}

// BenchmarkAudit is what a row of the audit log costs a request.
func BenchmarkAudit(b *testing.B) {
	db, err := store.Open(b.Context(), b.TempDir(), store.Options{})
	if err != nil {
		b.Fatal(err)
	}
	defer db.Close()
	e := agentsandbox.AuditEntry{
		At: time.Now(), Tenant: "default", KeyID: agentsandbox.NewID(agentsandbox.KeyPrefix), RequestID: agentsandbox.NewID("req_"), Remote: "127.0.0.1:54321",
		Action: "execute", ObjectID: agentsandbox.NewID(agentsandbox.ExecutionPrefix), Outcome: agentsandbox.AuditOK,
	}
	for b.Loop() {
		if err := db.AppendAudit(b.Context(), e); err != nil {
			b.Fatal(err)
		}
	}
}
