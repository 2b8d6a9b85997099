package main

import (
	"cmp"
	"fmt"
	"path/filepath"
	"time"
)

// networkModes are the servers that are compared: with a network and without.
var networkModes = []struct{ name, mode string }{{"with a network", "public"}, {"without", "off"}}

// idleNetworks measures the CPU time that idle sandboxes take, and the daemon for
// their sake, with a network and without.
func idleNetworks(o options, dir string) error {
	fmt.Printf("\n| %d idle sandboxes, over %s | CPU of the daemon, of one core | CPU of all sandboxes |\n|---|---:|---:|\n", o.idleNetworks, o.idle)
	for _, m := range networkModes {
		daemon, sandboxes, err := idleOne(o, filepath.Join(dir, "idle-"+m.mode), m.mode)
		if err != nil {
			return fmt.Errorf("%d idle sandboxes %s: %w", o.idleNetworks, m.name, err)
		}
		part := func(d time.Duration) float64 { return 100 * float64(d) / float64(o.idle) }
		fmt.Printf("| %s | %.2f %% | %.2f %% |\n", m.name, part(daemon), part(sandboxes))
	}
	return nil
}

func idleOne(o options, dir, mode string) (daemon, sandboxes time.Duration, err error) {
	s, err := start(o.binary, dir, "--preload", "none", "--pool-size", "1", "--egress-mode", mode)
	if err != nil {
		return 0, 0, err
	}
	defer s.stop()
	for i := range o.idleNetworks {
		id, err := s.session()
		if err != nil {
			return 0, 0, err
		}
		if _, err := s.execute(id, python, hello, helloOut); err != nil {
			return 0, 0, err
		}
		progress("sandbox %d of %d", i+1, o.idleNetworks)
	}
	progress("")
	if err := s.full(); err != nil {
		return 0, 0, err
	}
	time.Sleep(2 * time.Second) // what a run leaves to do is over
	before, err := s.bothCPU()
	if err != nil {
		return 0, 0, err
	}
	time.Sleep(o.idle)
	after, err := s.bothCPU()
	return after[0] - before[0], after[1] - before[1], err
}

// bothCPU is the CPU time of the daemon, and of its sandboxes.
func (s *server) bothCPU() (used [2]time.Duration, err error) {
	if used[0], err = s.cpu(); err != nil {
		return used, err
	}
	used[1], err = s.sandboxCPU()
	return used, err
}

// restoreCost measures what a network adds to a sandbox that is made for one run:
// two servers without warm sandboxes, in turns.
func restoreCost(o options, dir string) error {
	variants := make([]*variant, 0, len(networkModes))
	ready := func() error { return nil }
	for _, m := range networkModes {
		s, err := start(o.binary, filepath.Join(dir, "restore-"+m.mode), "--preload", "none", "--pool-size", "0", "--egress-mode", m.mode)
		if err != nil {
			return err
		}
		defer s.stop()
		before := ready
		ready = func() error { return cmp.Or(before(), s.empty()) }
		variants = append(variants, &variant{name: m.name, once: s.does(noSession, python, hello, helloOut)})
	}
	if err := takeTurns(variants, o.rounds, ready); err != nil {
		return err
	}
	fmt.Printf("\n| a sandbox restored for one run, %d rounds | median | p99 |\n|---|---:|---:|\n", o.rounds)
	for _, v := range variants {
		fmt.Printf("| %s | %s | %s |\n", v.name, ms(quantile(v.times, 0.5)), ms(quantile(v.times, 0.99)))
	}
	added := make([]time.Duration, o.rounds)
	for i := range added {
		added[i] = variants[0].times[i] - variants[1].times[i]
	}
	fmt.Printf("\nThe network adds %s to a restore (median of the differences within each round).\n", ms(quantile(added, 0.5)))
	return nil
}
