package firewall

import (
	"context"
	"encoding/binary"
	"io"
	"log/slog"
	"net"
	"testing"
)

// BenchmarkDownload is the firewall's share of one download: from a server on the
// loopback through a gate into a pair of sockets.
func BenchmarkDownload(b *testing.B) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer l.Close()
	go each(source)(l)
	server, err := ParseServer("public", nil, []string{"127.0.0.1"}, nil)
	if err != nil {
		b.Fatal(err)
	}
	p, err := Narrow(server)
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d := &direct{gate: New(Config{Log: slog.New(slog.DiscardHandler)}).Gate("bench", p, nil), ctx: ctx}
	defer d.wg.Wait()
	defer cancel()
	const size = 64 << 20
	b.SetBytes(size)
	for b.Loop() {
		conn, err := d.dial(l.Addr().String())
		if err != nil {
			b.Fatal(err)
		}
		if _, err := conn.Write(binary.BigEndian.AppendUint64(nil, size)); err != nil {
			b.Fatal(err)
		}
		if _, err := io.CopyN(io.Discard, conn, size); err != nil {
			b.Fatal(err)
		}
		conn.Close()
	}
}
