package eventlog

import (
	"bytes"
	"context"
	"errors"
	"io"
	"reflect"
	"slices"
	"testing"
)

func TestFrames(t *testing.T) {
	for _, f := range []frame{
		{Number: 1, Kind: Started},
		{Number: maxNumber, Kind: mark, Data: []byte("data")},
		{Number: 7, Kind: Ended, Data: make([]byte, MaxData)},
	} {
		b := append(appendFrame([]byte("before"), f)[6:], "after"...)
		size := headSize + len(f.Data)
		got, n, short, reason := parse(b)
		if got.Number != f.Number || got.Kind != f.Kind || !bytes.Equal(got.Data, f.Data) || n != size || short || reason != "" {
			t.Errorf("%d %d, %d bytes, %v, %q", got.Number, got.Kind, n, short, reason)
		}
		if cap(got.Data) != len(got.Data) {
			t.Error("an append to the data would change what follows")
		}
		for _, cut := range []int{0, 1, headSize - 1, headSize, size - 1} {
			if cut < size {
				if _, n, short, reason := parse(b[:cut]); !short || n <= cut || n > size || reason != "" {
					t.Errorf("cut at %d of %d: %d, %v, %q", cut, size, n, short, reason)
				}
			}
		}
	}
	if _, _, short, reason := parse(make([]byte, 100)); short || reason == "" {
		t.Error("zeros are taken for a frame")
	}
	long := appendFrame(nil, frame{Number: 1, Kind: Stdout, Data: make([]byte, MaxData+1)})
	if _, _, short, reason := parse(long); short || reason == "" {
		t.Error("a frame of any length is taken")
	}
}

// Whatever is in a row or a file, reading it comes to an end, with the log as it was
// written or with an error.
func FuzzReading(f *testing.F) {
	whole := appendFrame([]byte(magic), frame{Number: 1, Kind: Started, Data: []byte("begun")})
	whole = appendFrame(whole, frame{Number: 2, Kind: Stdout, Data: []byte("out")})
	whole = appendFrame(whole, frame{Number: 2, Kind: mark, Data: []byte(`{"sequence":3,"stdout":3}`)})
	whole = appendFrame(whole, frame{Number: 9, Kind: Gap, Data: []byte("{}")})
	whole = appendFrame(whole, frame{Number: 10, Kind: Ended})
	f.Add(whole, int64(3))
	f.Add(whole, int64(-94))
	f.Add(whole[:len(whole)-1], int64(0))
	f.Add([]byte(magic), int64(1<<40))
	f.Add([]byte{}, int64(-1))
	f.Fuzz(func(t *testing.T, log []byte, stdout int64) {
		d := &Dir{open: map[string]*content{}}
		sealed := Sealed{Size: int64(len(log)), Stdout: stdout, Inline: slices.Clip(log)}
		if log == nil {
			sealed.Inline = []byte{}
		}
		fromEvents, err := readEvents(d, sealed)
		var damage *DamageError
		if err != nil && !errors.As(err, &damage) {
			t.Fatal(err)
		}
		o, openErr := d.Output("x", sealed, Stdout)
		if openErr != nil {
			t.Fatal(openErr)
		}
		defer o.Close()
		var out bytes.Buffer
		_, outErr := io.Copy(&out, o)
		switch {
		case outErr != nil && !errors.As(outErr, &damage):
			t.Fatal(outErr)
		case outErr == nil && int64(out.Len()) != max(stdout, 0):
			t.Fatalf("%d bytes of output without an error, not %d", out.Len(), stdout)
		case err == nil && !bytes.HasPrefix(fromEvents, out.Bytes()):
			t.Fatalf("output %q, events %q", out.Bytes(), fromEvents)
		}
		// The same as a file of a run under way. No reading changes what is read.
		c := &content{dir: d, name: "x", tail: log, visible: int64(len(log))}
		there, err := scan(c)
		if err != nil {
			t.Fatal(err)
		}
		end, committed := there.end, there.committed
		if committed.offset > end.offset || end.offset > int64(len(log)) || committed.number > end.number {
			t.Fatalf("%d events in %d bytes, of which %d in %d are committed", end.number, end.offset, committed.number, committed.offset)
		}
		again, err := scan(&content{dir: d, name: "x", tail: log[:end.offset], visible: end.offset})
		if err != nil || again.damage != nil || !reflect.DeepEqual(again.end, end) {
			t.Fatalf("%+v, %v, and not %+v", again, err, end)
		}
	})
}

// readEvents returns the standard output in the events of a log.
func readEvents(d *Dir, sealed Sealed) ([]byte, error) {
	r, err := d.Events("x", sealed, 0)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	var out []byte
	for {
		e, err := r.Next(context.Background())
		if err == io.EOF {
			return out, nil
		}
		if err != nil {
			return out, err
		}
		if e.Kind == Stdout {
			out = append(out, e.Data...)
		}
	}
}
