package egress

import (
	"bytes"
	"context"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
)

func TestAThousandConnectionsAtOnce(t *testing.T) {
	t.Parallel()
	const connections = 1000
	_, l := connect(t, &handlerFunc{tcp: echo})
	s := sandboxStack(t, l.Device())
	var all [connections]net.Conn
	var dialling sync.WaitGroup
	for i := range all {
		dialling.Go(func() {
			c, err := dialFrom(t, s, "203.0.113.9:80")
			if err != nil {
				t.Errorf("connection %d: %v", i, err)
				return
			}
			all[i] = c
		})
	}
	within(t, "opening connections", dialling.Wait)
	if t.Failed() {
		return
	}
	if active := l.Stats().Active; active != connections {
		t.Errorf("%d connections are active", active)
	}
	for i, c := range all {
		dialling.Go(func() {
			defer c.Close()
			sent := bytes.Repeat([]byte{byte(i)}, 10_000+i)
			if _, err := c.Write(sent); err != nil {
				t.Errorf("connection %d: %v", i, err)
			}
			got := make([]byte, len(sent))
			if _, err := io.ReadFull(c, got); err != nil || !bytes.Equal(got, sent) {
				t.Errorf("connection %d: other bytes came back, or %v", i, err)
			}
		})
	}
	within(t, "using connections", dialling.Wait)
	eventually(t, "the end of all connections", func() bool { return l.Stats().Active == 0 })
	eventually(t, "the return of all memory", func() bool {
		l.memory.mu.Lock()
		defer l.memory.mu.Unlock()
		return l.memory.free == DefaultLimits.BufferBytes
	})
}

func TestConnectionsAreBounded(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	var undecided collect[Conn]
	_, l := connectWith(t, &handlerFunc{tcp: func(ctx context.Context, c Conn) {
		if c.Destination().Port() == 80 {
			echo(ctx, c)
			return
		}
		undecided.add(c)
		select {
		case <-release:
		case <-ctx.Done():
		}
	}}, Limits{Connections: 4, Pending: 2, BufferBytes: 1 << 20})
	s := sandboxStack(t, l.Device())
	var open []net.Conn
	for range 4 {
		open = append(open, mustDial(t, s, "203.0.113.9:80"))
	}
	if _, err := dialFrom(t, s, "203.0.113.9:80"); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("the fifth connection: %v", err)
	}
	if _, err := l.Dial(t.Context(), 80); err == nil || !strings.Contains(err.Error(), "its limit") {
		t.Errorf("dialling the fifth connection: %v", err)
	}
	if st := l.Stats(); st.OverLimit != 1 || st.Active != 4 {
		t.Errorf("counted %+v", st)
	}
	for _, c := range open {
		c.Close()
	}
	eventually(t, "the end of all connections", func() bool { return l.Stats().Active == 0 })
	// What is not decided is bounded too: more wait for their turn.
	var dialling sync.WaitGroup
	for range 3 {
		dialling.Go(func() { _, _ = dialFrom(t, s, "203.0.113.9:81") })
	}
	eventually(t, "two undecided connections", func() bool { return len(undecided.values()) == 2 })
	eventually(t, "a third that is left aside", func() bool {
		return l.stack.Stats().TCP.ForwardMaxInFlightDrop.Value() > 0
	})
	if n := len(undecided.values()); n != 2 {
		t.Errorf("%d connections are undecided", n)
	}
	close(release)
	within(t, "refusing all", dialling.Wait)
}

func TestBudget(t *testing.T) {
	t.Parallel()
	b := budget{free: DefaultLimits.BufferBytes}
	var shares []int64
	sum := int64(0)
	for range DefaultLimits.Connections {
		share := b.take()
		if share < smallestShare || share > largestShare || len(shares) > 0 && share > shares[len(shares)-1] {
			t.Fatalf("after %v comes %d", shares, share)
		}
		shares = append(shares, share)
		sum += share * shareBuffers
	}
	if shares[0] != largestShare {
		t.Errorf("the first share is %d", shares[0])
	}
	if most := DefaultLimits.BufferBytes + int64(len(shares))*smallestShare*shareBuffers; sum > most {
		t.Errorf("all shares are %d bytes, more than %d", sum, most)
	}
	for _, share := range shares {
		b.put(share)
	}
	if b.free != DefaultLimits.BufferBytes {
		t.Errorf("%d bytes are free in the end", b.free)
	}
}
