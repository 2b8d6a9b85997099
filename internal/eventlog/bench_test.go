package eventlog_test

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"sync"
	"testing"

	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

var line = bytes.Repeat([]byte("x"), 80)

// A small event, committed after every 64 KiB, as runs are.
func BenchmarkAppend(b *testing.B) {
	d := open(b, b.TempDir())
	l := begin(b, d, 0)
	b.SetBytes(int64(len(line)))
	b.ReportAllocs()
	for n := 0; b.Loop(); n++ {
		must(b, l.Append(eventlog.Stdout, line))
		if n%800 == 799 {
			must(b, l.Commit(at(uint64(n))))
		}
	}
}

// What the log adds to a run that prints a line.
func BenchmarkTinyRun(b *testing.B) {
	d := open(b, b.TempDir())
	b.ReportAllocs()
	for b.Loop() {
		l, err := d.Create(id, 20<<20)
		must(b, err)
		must(b, l.Append(eventlog.Started, line))
		must(b, l.Append(eventlog.Stdout, line))
		must(b, l.Finish(80, 0))
		_, err = l.Seal(over)
		must(b, err)
		must(b, l.Publish())
		l.Close()
	}
}

// large is a log of 20 MB of output, in messages of 32 KiB.
func large(b *testing.B, d *eventlog.Dir) eventlog.Sealed {
	b.Helper()
	l := begin(b, d, 0)
	defer l.Close()
	piece := bytes.Repeat(line, 32<<10/len(line))
	for n := range 20_000_000 / len(piece) {
		must(b, l.Append(eventlog.Stdout, piece))
		if n%2 == 1 {
			must(b, l.Commit(at(uint64(n))))
		}
	}
	return end(b, l)
}

// A large run: 20 MB through the file, and synced.
func BenchmarkLargeRun(b *testing.B) {
	d := open(b, b.TempDir())
	b.SetBytes(20_000_000)
	b.ReportAllocs()
	for b.Loop() {
		large(b, d)
		must(b, d.Remove(id))
	}
}

func BenchmarkReplay(b *testing.B) {
	d := open(b, b.TempDir())
	sealed := large(b, d)
	b.SetBytes(sealed.Stdout)
	b.ReportAllocs()
	for b.Loop() {
		r, err := d.Events(id, sealed, 0)
		must(b, err)
		for err == nil {
			_, err = r.Next(context.Background())
		}
		if err != io.EOF {
			b.Fatal(err)
		}
		r.Close()
	}
}

func BenchmarkOutput(b *testing.B) {
	d := open(b, b.TempDir())
	sealed := large(b, d)
	b.SetBytes(sealed.Stdout)
	b.ReportAllocs()
	for b.Loop() {
		o, err := d.Output(id, sealed, eventlog.Stdout)
		must(b, err)
		if n, err := io.Copy(io.Discard, o); err != nil || n != sealed.Stdout {
			b.Fatal(n, err)
		}
		must(b, o.Close())
	}
}

// 1000 events of 80 bytes, and how long it takes until all readers have all of them.
func BenchmarkFollow(b *testing.B) {
	for _, readers := range []int{1, 100} {
		b.Run(fmt.Sprint(readers), func(b *testing.B) {
			d := open(b, b.TempDir())
			b.ReportAllocs()
			for b.Loop() {
				l := begin(b, d, 0)
				var following sync.WaitGroup
				for range readers {
					r := l.Events(0)
					following.Go(func() {
						defer r.Close()
						var err error
						for err == nil {
							_, err = r.Next(context.Background())
						}
						if err != io.EOF {
							b.Error(err)
						}
					})
				}
				for n := range 1000 {
					must(b, l.Append(eventlog.Stdout, line))
					if n == 799 {
						must(b, l.Commit(at(1)))
					}
				}
				end(b, l)
				following.Wait()
				l.Close()
				must(b, d.Remove(id))
			}
		})
	}
}
