package main

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// load is what a number of clients run over and over.
type load struct {
	name     string
	clients  int
	sessions int // that they share; 0: each run has a fresh sandbox
	keys     int // that they use in turn
	code     string
	goal     float64 // per second; 0: none
}

// rates measures how many executions a second the machine sustains.
func rates(o options, s *server) error {
	fmt.Printf("\n## Sustained rates, %s each\n\n| what | per second | goal | median | p99 | errors |\n|---|---:|---|---:|---:|---:|\n", o.sustained)
	for _, l := range []load{
		{name: "one live session, `print(1)`, concurrency 8", clients: 8, sessions: 1, keys: 1, code: hello},
		{name: "8 live sessions, `print(1)`, concurrency 8", clients: 8, sessions: 8, keys: 1, code: hello, goal: 150},
		{name: "fresh sandboxes, `print(1)`, concurrency 16, 4 keys", clients: 16, keys: 4, code: hello, goal: 20},
		{name: "fresh sandboxes, data libraries, concurrency 16, 4 keys", clients: 16, keys: 4, code: data, goal: 8},
	} {
		if err := l.measure(o, s); err != nil {
			return fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return nil
}

func (l load) measure(o options, s *server) error {
	// The first clients' keys are the bench's own; each other one has a tenant.
	clients := []*server{s}
	for i := range l.keys - 1 {
		other, err := s.as(fmt.Sprintf("tenant-%d", i))
		if err != nil {
			return err
		}
		clients = append(clients, other)
	}
	sessions := []string{noSession}
	if l.sessions > 0 {
		sessions = sessions[:0]
	}
	for range l.sessions {
		id, err := s.session()
		if err != nil {
			return err
		}
		defer s.delete(id)
		sessions = append(sessions, id)
	}
	if err := s.full(); err != nil {
		return err
	}
	result := l.sustain(clients, sessions, o.sustained)
	if len(result.times) == 0 {
		return fmt.Errorf("nothing succeeded: %w", result.first)
	}
	rate, verdict := float64(len(result.times))/o.sustained.Seconds(), ""
	if l.goal > 0 {
		verdict = fmt.Sprintf("%.0f: missed, %.2f of it", l.goal, rate/l.goal)
		if rate >= l.goal {
			verdict = fmt.Sprintf("%.0f: met", l.goal)
		}
	}
	fmt.Printf("| %s | %.1f | %s | %s | %s | %d |\n", l.name, rate, verdict,
		ms(quantile(result.times, 0.5)), ms(quantile(result.times, 0.99)), result.failed)
	if l.keys > 1 {
		shares := slices.Sorted(maps.Values(result.byKey))
		fmt.Printf("| … of which the keys had, the least and the most | %.1f, %.1f | | | | |\n",
			float64(shares[0])/o.sustained.Seconds(), float64(shares[len(shares)-1])/o.sustained.Seconds())
	}
	if result.first != nil {
		fmt.Printf("\nThe first error: %v\n", result.first)
	}
	return nil
}

type sustained struct {
	times  []time.Duration
	byKey  map[*server]int
	failed int
	first  error
}

// sustain runs code over and over from several clients at once.
func (l load) sustain(clients []*server, sessions []string, lasts time.Duration) sustained {
	result := sustained{byKey: map[*server]int{}}
	var mu sync.Mutex
	var all sync.WaitGroup
	end := time.Now().Add(lasts)
	for i := range l.clients {
		client, session := clients[i%len(clients)], sessions[i%len(sessions)]
		all.Go(func() {
			for time.Now().Before(end) {
				began := time.Now()
				_, err := client.execute(session, python, l.code, helloOut)
				mu.Lock()
				if err == nil {
					result.times = append(result.times, time.Since(began))
					result.byKey[client]++
				} else {
					result.failed++
					result.first = cmp.Or(result.first, err)
				}
				mu.Unlock()
			}
		})
	}
	all.Wait()
	return result
}

// as returns the same server for a client with a key of another tenant.
func (s *server) as(tenant string) (*server, error) {
	var made struct {
		Value string `json:"key_value"`
	}
	body := fmt.Sprintf(`{"name": %q, "tenant": %q, "scopes": ["sandbox"]}`, tenant, tenant)
	if err := s.do("POST", "/v1/api-keys", "application/json", strings.NewReader(body), &made); err != nil {
		return nil, err
	}
	other := *s
	other.key = made.Value
	return &other, nil
}
