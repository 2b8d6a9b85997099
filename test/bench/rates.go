package main

import (
	"cmp"
	"fmt"
	"sync"
	"time"
)

// rates measures how many executions a second the machine sustains.
func rates(o options, s *server) error {
	fmt.Printf("\n## Sustained rates\n\n| what | per second | median | p99 | errors |\n|---|---:|---:|---:|---:|\n")
	session, err := s.session()
	if err != nil {
		return err
	}
	defer s.delete(session)
	short := min(o.sustained, 15*time.Second)
	for _, load := range []struct {
		name        string
		concurrency int
		lasts       time.Duration
		session     string
		code        string
	}{
		{"live session, `print(1)`, concurrency 8", 8, short, session, hello},
		{"fresh sandboxes, `print(1)`, concurrency 16", 16, o.sustained, noSession, hello},
		{"fresh sandboxes, data libraries, concurrency 16", 16, o.sustained, noSession, data},
	} {
		if err := s.full(); err != nil {
			return err
		}
		times, failed, first := s.sustain(load.concurrency, load.lasts, load.session, load.code)
		if len(times) == 0 {
			return fmt.Errorf("%s: nothing succeeded: %w", load.name, first)
		}
		fmt.Printf("| %s | %.1f | %s | %s | %d |\n", load.name, float64(len(times))/load.lasts.Seconds(),
			ms(quantile(times, 0.5)), ms(quantile(times, 0.99)), failed)
		if first != nil {
			fmt.Printf("\nThe first error: %v\n", first)
		}
	}
	return nil
}

// sustain runs code over and over from several clients at once.
func (s *server) sustain(concurrency int, lasts time.Duration, session, code string) (times []time.Duration, failed int, first error) {
	var mu sync.Mutex
	var clients sync.WaitGroup
	end := time.Now().Add(lasts)
	for range concurrency {
		clients.Go(func() {
			for time.Now().Before(end) {
				began := time.Now()
				_, err := s.execute(session, python, code, helloOut)
				mu.Lock()
				if err == nil {
					times = append(times, time.Since(began))
				} else {
					failed++
					first = cmp.Or(first, err)
				}
				mu.Unlock()
			}
		})
	}
	clients.Wait()
	return times, failed, first
}
