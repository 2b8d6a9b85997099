package eventlog_test

import (
	"context"
	"fmt"
	"io"
	"os"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// A run from its start to its record, with a reader that follows it.
func Example() {
	path, _ := os.MkdirTemp("", "")
	defer os.RemoveAll(path)
	dir, _ := eventlog.Open(path, eventlog.Options{UnwrittenBytes: 128 << 20})

	log, _ := dir.Create("exe_1", 5) // keeps 5 bytes of each stream
	defer log.Close()
	reader := log.Events(0)
	defer reader.Close()

	_ = log.Append(eventlog.Started, []byte(`{}`))
	_ = log.Append(eventlog.Stdout, []byte("hello"))
	_ = log.Append(eventlog.Stdout, []byte(" world"))
	_ = log.Finish(11, 0)
	out := log.Totals().Stdout
	note := fmt.Sprintf("the first %d of %d bytes are kept", out.Kept, out.Written)
	sealed, _ := log.Seal(eventlog.Event{Kind: eventlog.Stderr, Data: []byte(note)}, eventlog.Event{Kind: eventlog.Ended})
	// Here the row is written, with sealed.
	_ = log.Publish()

	for {
		e, err := reader.Next(context.Background())
		if err == io.EOF {
			break
		}
		fmt.Printf("%d %d %s;\n", e.Number, e.Kind, e.Data)
	}
	stderr, _ := dir.Output("exe_1", sealed, eventlog.Stderr)
	defer stderr.Close()
	_, _ = io.Copy(os.Stdout, stderr)

	// Output:
	// 1 1 {};
	// 2 2 hello;
	// 3 5 {"stdout":6};
	// 4 3 the first 5 of 11 bytes are kept;
	// 5 6 ;
	// the first 5 of 11 bytes are kept
}
