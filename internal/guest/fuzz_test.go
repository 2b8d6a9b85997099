package guest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// script cuts bytes into the messages of an agent: kind, length, payload.
func script(b []byte) []said {
	const maxMessages = 32
	var all []said
	for len(b) >= 2 && len(all) < maxMessages {
		n := min(int(b[1]), len(b)-2)
		all = append(all, said{b[0], b[2 : 2+n]})
		b = b[2+n:]
	}
	return all
}

func unscript(all ...said) []byte {
	var b []byte
	for _, m := range all {
		b = append(append(b, m.kind, byte(len(m.payload))), m.payload...)
	}
	return b
}

// FuzzClient has an agent say anything in answer to everything that it can be
// asked. The client neither hangs nor panics, and what it passes on is within
// the bounds that its callers rely on.
func FuzzClient(f *testing.F) {
	f.Add(uint8(0), unscript(doc(KindReply, Entry{Name: []byte("x"), Kind: "file", Size: 3})))
	f.Add(uint8(1), unscript(doc(KindReply, Page{Entries: []Entry{{Name: []byte("c"), Kind: "file"}}})))
	f.Add(uint8(2), unscript(doc(KindReply, Entry{Kind: "file", Size: 2}), said{KindData, []byte("ab")}))
	f.Add(uint8(3), unscript(doc(KindReply, Entry{Kind: "file"})))
	f.Add(uint8(4), unscript(numbered(KindStdout, 1, []byte("out")), result(2, RunResult{StdoutBytes: 3})))
	f.Add(uint8(4), unscript(numbered(KindChanged, 1, doc(0, []Entry{{Name: []byte("/workspace/a"), Kind: "file"}}).payload), result(2, RunResult{Changed: 1})))
	f.Add(uint8(5), unscript(doc(KindReply, struct{}{})))
	f.Add(uint8(6), unscript(said{KindPart, []byte("{")}, said{KindReply, []byte("}")}))
	f.Fuzz(func(t *testing.T, method uint8, said []byte) {
		c := puppet(t, script(said))
		ctx := deadline(t)
		if err := ask(ctx, t, c, method%7); errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("method %d hangs", method%7)
		}
	})
}

func ask(ctx context.Context, t *testing.T, c *Client, method uint8) error {
	switch method {
	case 0:
		info, err := c.Stat(ctx, "/x")
		if err == nil && (info.SizeBytes < 0 || info.ModifiedAt.Year() > 9999 || len(info.Target) > agentsandbox.MaxPathBytes) {
			t.Fatalf("passed on: %+v", info)
		}
		return err
	case 1:
		page, err := c.List(ctx, "/x", "b", 2)
		if err != nil {
			return err
		}
		for i, e := range page.Entries {
			name, below := strings.CutPrefix(e.Path, "/x/")
			if !below || name <= "b" || strings.Contains(name, "/") || i > 1 {
				t.Fatalf("passed on: %+v", page)
			}
		}
	case 2:
		info, r, err := c.ReadFile(ctx, "/x")
		if err != nil {
			return err
		}
		defer r.Close()
		n, err := io.Copy(io.Discard, r)
		if n > info.SizeBytes {
			t.Fatalf("%d bytes of a file of %d", n, info.SizeBytes)
		}
		return err
	case 3:
		_, err := c.WriteFile(ctx, "/x", strings.NewReader("x"))
		return err
	case 4:
		return askRun(ctx, t, c)
	case 5:
		return c.Remove(ctx, "/x")
	case 6:
		return c.Identify(ctx, Identity{Hostname: "a", MachineID: strings.Repeat("0", 32)})
	}
	return nil
}

func askRun(ctx context.Context, t *testing.T, c *Client) error {
	const limit = 64
	r, err := c.Run(ctx, runtime.Command{
		ID: "r", Language: agentsandbox.Bash, OutputLimit: limit, CollectDirs: []string{"/workspace"},
		Collect: runtime.CollectLimits{Files: 2, Bytes: 100},
	})
	if err != nil {
		return err
	}
	defer r.Close()
	kept := map[runtime.Stream]int{}
	for {
		e, err := r.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		kept[e.Stream] += len(e.Data)
		if kept[e.Stream] > limit {
			t.Fatalf("%d bytes of a stream", kept[e.Stream])
		}
		if e.Result == nil {
			continue
		}
		if len(e.Result.Changed) > 2 || e.Result.Duration < 0 || e.Result.ExitCode > 255 || e.Result.ExitCode < 0 {
			t.Fatalf("passed on: %+v", e.Result)
		}
		for _, p := range e.Result.Changed {
			if !strings.HasPrefix(p.Path, "/workspace/") || strings.Contains(p.Path+"/", "/../") {
				t.Fatalf("passed on: %+v", p)
			}
		}
	}
}

// FuzzDocument reads a document of any messages: what comes is bounded.
func FuzzDocument(f *testing.F) {
	f.Add([]byte("\x02\x02{}"))
	f.Add(unscript(said{KindPart, []byte(`{"method":`)}, said{KindRequest, []byte(`"stat"}`)}))
	f.Fuzz(func(t *testing.T, b []byte) {
		var l loopback
		for _, m := range script(b) {
			l.queue = append(l.queue, wire.Message{Kind: m.kind, Payload: m.payload})
		}
		var req Request
		if err := RecvDocument(context.Background(), &l, KindRequest, 100, &req); err == nil && len(req.Path) > 100 {
			t.Fatalf("a path of %d bytes", len(req.Path))
		}
	})
}
