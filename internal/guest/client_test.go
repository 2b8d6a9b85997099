package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

func deadline(t testing.TB) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func socketpair(t testing.TB) (net.Conn, net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var conns [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "socketpair")
		if conns[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
	}
	return conns[0], conns[1]
}

// said is a message of an agent.
type said struct {
	kind    uint8
	payload []byte
}

func doc(kind uint8, v any) said {
	b, err := json.Marshal(v)
	if err != nil {
		panic(err)
	}
	return said{kind, b}
}

func numbered(kind uint8, seq uint64, payload []byte) said {
	return said{kind, append(AppendSequence(nil, seq), payload...)}
}

func result(seq uint64, r RunResult) said {
	return numbered(KindResult, seq, doc(0, r).payload)
}

// puppet returns a client whose agent answers every stream with the same
// messages, and then the end of the stream.
func puppet(t testing.TB, answer []said) *Client {
	t.Helper()
	a, b := socketpair(t)
	ctx := deadline(t)
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := wire.Accept(ctx, b, wire.Options{})
		if err != nil {
			return
		}
		defer conn.Close()
		for {
			s, err := conn.Accept(ctx)
			if err != nil {
				return
			}
			for _, m := range answer {
				if s.Send(ctx, m.kind, m.payload) != nil {
					break
				}
			}
			s.End()
		}
	}()
	c, err := NewClient(ctx, a)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		c.Close()
		<-done
	})
	return c
}

// TestHostileAgent checks that whatever an agent must not say costs it the
// conversation.
func TestHostileAgent(t *testing.T) {
	run := runtime.Command{ID: "r", Language: agentsandbox.Bash, OutputLimit: 10, CollectDirs: []string{"/workspace"}, Collect: runtime.CollectLimits{Files: 2, Bytes: 100}}
	unlimited := run
	unlimited.OutputLimit = 0
	doRun := func(cmd runtime.Command) func(context.Context, *Client) error {
		return func(ctx context.Context, c *Client) error {
			r, err := c.Run(ctx, cmd)
			if err != nil {
				return err
			}
			defer r.Close()
			for err == nil {
				_, err = r.Next(ctx)
			}
			return err
		}
	}
	stat := func(ctx context.Context, c *Client) error {
		_, err := c.Stat(ctx, "/x")
		return err
	}
	list := func(ctx context.Context, c *Client) error {
		_, err := c.List(ctx, "/x", "b", 2)
		return err
	}
	read := func(ctx context.Context, c *Client) error {
		_, r, err := c.ReadFile(ctx, "/x")
		if err != nil {
			return err
		}
		defer r.Close()
		_, err = io.Copy(io.Discard, r)
		return err
	}
	write := func(ctx context.Context, c *Client) error {
		_, err := c.WriteFile(ctx, "/x", strings.NewReader("x"))
		return err
	}
	file := func(name string) Entry { return Entry{Name: []byte(name), Kind: "file"} }
	page := func(names ...string) said {
		var p Page
		for _, n := range names {
			p.Entries = append(p.Entries, file(n))
		}
		return doc(KindReply, p)
	}
	changes := func(entries ...Entry) []said {
		return []said{numbered(KindChanged, 1, doc(0, entries).payload), result(2, RunResult{Changed: len(entries)})}
	}
	huge := make([]said, MaxReply/wire.MaxPayload+1)
	for i := range huge {
		huge[i] = said{KindPart, make([]byte, wire.MaxPayload)}
	}
	for name, tc := range map[string]struct {
		do     func(context.Context, *Client) error
		answer []said
	}{
		"no reply":                {stat, nil},
		"not JSON":                {stat, []said{{KindReply, []byte("{")}}},
		"another kind":            {stat, []said{{KindData, nil}}},
		"something after a reply": {stat, []said{doc(KindReply, file("")), {KindData, nil}}},
		"an endless reply":        {stat, huge},
		"unknown kind of file":    {stat, []said{doc(KindReply, Entry{Kind: "socket"})}},
		"negative size":           {stat, []said{doc(KindReply, Entry{Kind: "file", Size: -1})}},
		"impossible mode":         {stat, []said{doc(KindReply, Entry{Kind: "file", Mode: 1 << 16})}},
		"impossible time":         {stat, []said{doc(KindReply, Entry{Kind: "file", Nsec: 1e9})}},
		"target of a file":        {stat, []said{doc(KindReply, Entry{Kind: "file", Target: []byte("x")})}},
		"NUL in a target":         {stat, []said{doc(KindReply, Entry{Kind: "symlink", Target: []byte("\x00")})}},
		"a name with a slash":     {list, []said{page("c/../../etc")}},
		"a name of two dots":      {list, []said{page("..")}},
		"an empty name":           {list, []said{page("")}},
		"a name too early":        {list, []said{page("a")}},
		"names out of order":      {list, []said{page("d", "c")}},
		"a name twice":            {list, []said{page("c", "c")}},
		"too many names":          {list, []said{page("c", "d", "e")}},
		"more after nothing":      {list, []said{doc(KindReply, Page{More: true})}},
		"a file that is a link":   {read, []said{doc(KindReply, Entry{Kind: "symlink"})}},
		"more than its size":      {read, []said{doc(KindReply, Entry{Kind: "file", Size: 2}), {KindData, []byte("abc")}}},
		"no data":                 {read, []said{doc(KindReply, Entry{Kind: "file", Size: 2}), {KindReply, []byte("abc")}}},
		"no reply to a write":     {write, nil},
		"no result":               {doRun(run), nil},
		"output without number":   {doRun(run), []said{{KindStdout, []byte("x")}}},
		"a gap":                   {doRun(run), []said{numbered(KindStdout, 2, []byte("x"))}},
		"a repetition":            {doRun(run), []said{numbered(KindStdout, 1, []byte("x")), numbered(KindStdout, 1, []byte("x"))}},
		"empty output":            {doRun(run), []said{numbered(KindStdout, 1, nil)}},
		"output over the limit":   {doRun(run), []said{numbered(KindStdout, 1, make([]byte, 11))}},
		"another kind in a run":   {doRun(run), []said{numbered(KindData, 1, []byte("x"))}},
		"exit code and signal":    {doRun(run), []said{result(1, RunResult{ExitCode: 1, Signal: 9})}},
		"exit code 256":           {doRun(run), []said{result(1, RunResult{ExitCode: 256})}},
		"negative duration":       {doRun(run), []said{result(1, RunResult{DurationNS: -1})}},
		"fewer bytes than came":   {doRun(run), []said{numbered(KindStdout, 1, []byte("x")), result(2, RunResult{})}},
		"bytes that did not come": {doRun(unlimited), []said{result(1, RunResult{StdoutBytes: 1})}},
		"files that did not come": {doRun(run), []said{result(1, RunResult{Changed: 1})}},
		"negative omission":       {doRun(run), []said{result(1, RunResult{Omitted: map[agentsandbox.OmittedReason]int{"ignored": -1}})}},
		"an unknown omission":     {doRun(run), []said{result(1, RunResult{Omitted: map[agentsandbox.OmittedReason]int{"\x1b[1m": 1}})}},
		"a file elsewhere":        {doRun(run), changes(file("/etc/passwd"))},
		"a file beside":           {doRun(run), changes(file("/workspacex/f"))},
		"the directory itself":    {doRun(run), changes(file("/workspace"))},
		"a path that climbs":      {doRun(run), changes(file("/workspace/../etc/passwd"))},
		"a link among files":      {doRun(run), changes(Entry{Name: []byte("/workspace/l"), Kind: "symlink"})},
		"files out of order":      {doRun(run), changes(file("/workspace/b"), file("/workspace/a"))},
		"too many files":          {doRun(run), changes(file("/workspace/a"), file("/workspace/b"), file("/workspace/c"))},
		"files too large":         {doRun(run), changes(Entry{Name: []byte("/workspace/a"), Kind: "file", Size: 101})},
	} {
		t.Run(name, func(t *testing.T) {
			c := puppet(t, tc.answer)
			if err := tc.do(deadline(t), c); !errors.Is(err, runtime.ErrSandboxLost) {
				t.Fatalf("%v, want ErrSandboxLost", err)
			}
			<-c.Done()
			var broken *BreachError
			if !errors.As(c.Err(), &broken) {
				t.Errorf("the conversation ended because of %v, want a BreachError", c.Err())
			}
		})
	}
}

// TestHonestAgent checks that the puppet's answers fail for what they say, and
// not for how they are given.
func TestHonestAgent(t *testing.T) {
	c := puppet(t, []said{
		numbered(KindStdout, 1, []byte("out")),
		numbered(KindChanged, 2, doc(0, []Entry{{Name: []byte("/workspace/a\xff"), Kind: "file", Size: 5, Sec: 1 << 60}}).payload),
		result(3, RunResult{ExitCode: 2, StdoutBytes: 30, Changed: 1, Omitted: map[agentsandbox.OmittedReason]int{"ignored": 3, "size_limit": 1}}),
	})
	r, err := c.Run(deadline(t), runtime.Command{ID: "r", Language: agentsandbox.Python, OutputLimit: 3, CollectDirs: []string{"/workspace/"}})
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if e, err := r.Next(deadline(t)); err != nil || string(e.Data) != "out" {
		t.Fatalf("got %+v, %v", e, err)
	}
	e, err := r.Next(deadline(t))
	if err != nil || e.Result == nil || e.Result.ExitCode != 2 || e.Result.Omitted["size_limit"] != 1 || len(e.Result.Changed) != 1 {
		t.Fatalf("got %+v, %v", e.Result, err)
	}
	if f := e.Result.Changed[0]; f.Path != "/workspace/a\xff" || f.ModifiedAt.Year() != 9999 {
		t.Errorf("got %+v", f)
	}
	if _, err := json.Marshal(e.Result.Changed[0].ModifiedAt); err != nil {
		t.Errorf("a time from the sandbox cannot be shown: %v", err)
	}
}

func TestFailuresBecomeErrors(t *testing.T) {
	for code, want := range failures {
		err := decodeFailure(&wire.ResetError{Text: Failure{Code: code, Text: "why"}.Encode()})
		if !errors.Is(err, want) || !strings.Contains(err.Error(), "why") {
			t.Errorf("%s: %v, want %v", code, err, want)
		}
	}
	err := decodeFailure(&wire.ResetError{Text: Failure{Code: "new", Text: "a\x1b[2Jb\nc"}.Encode()})
	if err == nil || strings.ContainsAny(err.Error(), "\x1b\n") {
		t.Errorf("got %q", err)
	}
	long := Failure{Code: FailOther, Text: strings.Repeat("\x00", 1<<20)}.Encode()
	if len(long) > wire.MaxResetText || !json.Valid(long) {
		t.Errorf("a long failure has %d bytes, valid: %v", len(long), json.Valid(long))
	}
	var broken *BreachError
	if err := decodeFailure(&wire.ResetError{Text: []byte("x")}); !errors.As(err, &broken) {
		t.Errorf("a reset without a failure: %v", err)
	}
}

// loopback is both ends of a stream.
type loopback struct{ queue []wire.Message }

func (l *loopback) Send(_ context.Context, kind uint8, payload []byte) error {
	l.queue = append(l.queue, wire.Message{Kind: kind, Payload: bytes.Clone(payload)})
	return nil
}

func (l *loopback) Recv(context.Context) (wire.Message, error) {
	if len(l.queue) == 0 {
		return wire.Message{}, io.EOF
	}
	m := l.queue[0]
	l.queue = l.queue[1:]
	return m, nil
}

func TestDocumentsOfAnySize(t *testing.T) {
	for _, size := range []int{0, 1, wire.MaxPayload / 2, wire.MaxPayload, 3 * wire.MaxPayload} {
		var l loopback
		sent := Request{Method: MethodStat, Path: bytes.Repeat([]byte{0xff}, size)}
		if err := SendDocument(context.Background(), &l, KindRequest, sent); err != nil {
			t.Fatal(err)
		}
		var got Request
		if err := RecvDocument(context.Background(), &l, KindRequest, MaxRequest, &got); err != nil || !bytes.Equal(got.Path, sent.Path) {
			t.Errorf("%d bytes: %d came, %v", size, len(got.Path), err)
		}
	}
}

func TestIdentityIsChecked(t *testing.T) {
	good := Identity{Hostname: "sbx-1", MachineID: strings.Repeat("0a", 16)}
	if err := good.Validate(); err != nil {
		t.Error(err)
	}
	for _, bad := range []Identity{
		{}, {Hostname: "a\nb", MachineID: good.MachineID}, {Hostname: "-a", MachineID: good.MachineID},
		{Hostname: strings.Repeat("a", 64), MachineID: good.MachineID}, {Hostname: "a", MachineID: "XYZ"},
		{Hostname: "a", MachineID: good.MachineID, Entropy: make([]byte, 5000)},
		{Hostname: "a", MachineID: good.MachineID, Resolver: "resolver.example"},
		{Hostname: "a", MachineID: good.MachineID, Resolver: "192.0.0.1\noptions debug"},
		{Hostname: "a", MachineID: good.MachineID, Resolver: "fe80::1%\nnameserver 192.0.2.1"},
	} {
		if err := bad.Validate(); !errors.Is(err, runtime.ErrInvalid) {
			t.Errorf("%+v: %v", bad, err)
		}
	}
}

// FuzzEvents gives a run any messages: what comes out keeps the limits.
func FuzzEvents(f *testing.F) {
	f.Add(uint8(KindStdout), []byte("\x00\x00\x00\x00\x00\x00\x00\x01x"))
	f.Add(uint8(KindChanged), append(AppendSequence(nil, 1), `[{"name":"L3dvcmtzcGFjZS9h","kind":"file"}]`...))
	f.Add(uint8(KindResult), append(AppendSequence(nil, 1), `{"exit_code":1}`...))
	f.Fuzz(func(t *testing.T, kind uint8, payload []byte) {
		r := &run{cmd: runtime.Command{OutputLimit: 8, Collect: runtime.CollectLimits{Files: 1, Bytes: 10}}, dirs: []string{"/workspace"}}
		event, err := r.take(wire.Message{Kind: kind, Payload: payload})
		if err != nil {
			return
		}
		if len(event.Data) > 8 || len(r.changed) > 1 || r.bytes > 10 {
			t.Fatalf("%+v, %+v", event, r.changed)
		}
		for _, c := range r.changed {
			if !strings.HasPrefix(c.Path, "/workspace/") || strings.Contains(c.Path, "/../") {
				t.Fatalf("path %q", c.Path)
			}
		}
	})
}
