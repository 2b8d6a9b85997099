package firewall

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"
)

func capCases(t *testing.T, w *world) {
	t.Run("connections at once", func(t *testing.T) {
		b, a := w.box(t, setup{limits: Limits{Connections: 3}}), w.address(7)
		first := b.connect(at(a, 7))
		b.connect(at(a, 7))
		b.connect(at(a, 7))
		b.refused(at(a, 7), ReasonLimit)
		first.Close()
		b.wait(func() bool { c, err := b.dial(at(a, 7)); return err == nil && c.Close() == nil }, func() string { return "no place after one ended" })
	})
	t.Run("connections of all sandboxes", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		b.gate.fw.config.Connections = 1
		first := b.connect(at(a, 7))
		b.refused(at(a, 7), ReasonLimit)
		first.Close()
		b.wait(func() bool { return b.gate.fw.open.Load() == 0 }, func() string { return "not counted back" })
		b.connect(at(a, 7))
	})
	t.Run("new connections a second", func(t *testing.T) {
		b, a := w.box(t, setup{limits: Limits{Connections: 2, ConnectsPerSecond: 1}}), w.address(7)
		refusals := 0
		for range 50 {
			if c, err := b.dial(at(a, 7)); err != nil {
				refusals++
			} else {
				c.Close()
			}
		}
		if refusals < 30 {
			t.Errorf("only %d of 50 were refused", refusals)
		}
	})
	t.Run("bytes", func(t *testing.T) {
		b, a := w.box(t, setup{limits: Limits{Bytes: 1 << 20}}), w.address(9)
		conn := b.connect(at(a, 9))
		_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, 10<<20))
		if n, _ := io.Copy(io.Discard, conn); n > 2<<20 {
			t.Errorf("%d bytes came through", n)
		}
		b.logged(ReasonLimit)
		b.refused(at(a, 9), ReasonLimit)
	})
	t.Run("bandwidth", func(t *testing.T) {
		b, a := w.box(t, setup{limits: Limits{BytesPerSecond: 1}}), w.address(9)
		conn := b.connect(at(a, 9))
		_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, 2<<20))
		// After the first burst the next byte takes a second each.
		_, err := io.ReadFull(conn, make([]byte, smallBuffer))
		must(t, err)
		must(t, conn.SetReadDeadline(time.Now().Add(200*time.Millisecond)))
		if n, _ := io.Copy(io.Discard, conn); n > bigBuffer {
			t.Errorf("%d bytes came through", n)
		}
	})
	t.Run("idle", func(t *testing.T) {
		b, a := w.box(t, setup{limits: Limits{Idle: 100 * time.Millisecond}}), w.address(7)
		conn := b.connect(at(a, 7))
		b.ended(conn)
		b.logged(ReasonLimit)
	})
	t.Run("a thousand connections", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conns := make([]net.Conn, 1000)
		var wg sync.WaitGroup
		for i := range conns {
			wg.Add(1)
			go func() {
				defer wg.Done()
				c, err := b.dial(at(a, 7))
				if err != nil {
					t.Errorf("connection %d: %v", i, err)
					return
				}
				conns[i] = c
			}()
		}
		wg.Wait()
		for _, c := range conns {
			if c != nil {
				echoes(t, c)
			}
		}
		if s := b.gate.Stats(); s.Open != 1000 || s.Connections != 1000 {
			t.Errorf("%+v", s)
		}
		for _, c := range conns {
			if c != nil {
				c.Close()
			}
		}
		b.wait(func() bool { return b.gate.Stats().Open == 0 }, func() string { return "connections are left" })
	})
	t.Run("no goroutine is left", func(t *testing.T) {
		b := w.box(t, setup{})
		b.wait(func() bool { return runtime.NumGoroutine() < 100 }, func() string {
			return fmt.Sprintf("%d goroutines", runtime.NumGoroutine())
		})
	})
}

func byteCases(t *testing.T, w *world) {
	t.Run("half-close by the sandbox", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(7)
		conn := b.connect(at(a, 7))
		_, _ = io.WriteString(conn, "\x00last words")
		_ = conn.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "\x00last words" || err != nil {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("half-close before the first byte", func(t *testing.T) {
		b, a := w.named(t, "half.example", 22)
		conn := b.connect(at(a, 22))
		_ = conn.(*net.UnixConn).CloseWrite()
		if got, err := io.ReadAll(conn); string(got) != "SSH-2.0-world\r\n" || err != nil {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("a server that speaks first", func(t *testing.T) {
		b, a := w.named(t, "first.example", 22)
		conn := b.connect(at(a, 22))
		got := make([]byte, 15)
		if _, err := io.ReadFull(conn, got); err != nil || string(got) != "SSH-2.0-world\r\n" {
			t.Fatalf("%q %v", got, err)
		}
		_, _ = io.WriteString(conn, "SSH-2.0-me\r\n")
		if _, err := io.ReadFull(conn, got[:12]); err != nil || string(got[:12]) != "SSH-2.0-me\r\n" {
			t.Errorf("%q %v", got, err)
		}
	})
	t.Run("16 MiB, each byte", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(9)
		const size = 16 << 20
		conn := b.connect(at(a, 9))
		_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, size))
		r := bufio.NewReaderSize(conn, 256<<10)
		for i := range size {
			c, err := r.ReadByte()
			if err != nil || c != byte(i) {
				t.Fatalf("byte %d is %d: %v", i, c, err)
			}
		}
		b.wait(func() bool { s := b.gate.Stats(); return s.BytesIn == size && s.BytesOut == 8 },
			func() string { return fmt.Sprintf("counted %+v", b.gate.Stats()) })
	})
	t.Run("the sandbox goes away in mid-stream", func(t *testing.T) {
		b, a := w.box(t, setup{}), w.address(9)
		conn := b.connect(at(a, 9))
		_, _ = conn.Write(binary.BigEndian.AppendUint64(nil, 1<<40))
		_, _ = io.ReadFull(conn, make([]byte, 1<<20))
		conn.Close()
		b.wait(func() bool { return b.gate.Stats().Open == 0 }, func() string { return "the connection is left" })
	})
	t.Run("what was done can be read", func(t *testing.T) {
		b, a := w.named(t, "told.example", 443)
		if _, err := b.tls(b.connect(at(a, 443)), "told.example", w.ca); err != nil {
			t.Error(err)
		}
		b.refused("10.1.2.3:80", ReasonRange)
		b.wait(func() bool { s := b.gate.Stats(); return s.BytesIn > 0 && s.BytesOut > 0 }, func() string { return "no bytes counted" })
		s := b.gate.Stats()
		if s.Names["told.example"] != 1 || s.Refusals[ReasonRange] != 1 || s.Queries != 1 || s.Connections != 1 {
			t.Errorf("%+v", s)
		}
		entries, _ := b.gate.Log()
		var lines []string
		for _, e := range entries {
			lines = append(lines, fmt.Sprintf("%s %s %s %d %s %s", e.Kind, e.Name, e.Address, e.Port, e.Verdict, e.Rule))
		}
		want := []string{
			"dns told.example invalid IP 0 allowed session allow told.example",
			fmt.Sprintf("tls told.example %s 443 allowed session allow told.example", a),
			"tcp  10.1.2.3 80 refused private address",
		}
		if fmt.Sprint(lines) != fmt.Sprint(want) {
			t.Errorf("log:\n%s", strings.Join(lines, "\n"))
		}
	})
}
