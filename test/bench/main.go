// Command bench measures Agent Sandbox side by side with what a user would run
// instead, in one run on one machine: bare Python and Bash, and Python in
// bubblewrap.
//
// The variants take turns within each round, so that the noise of a shared
// machine falls on all of them alike. It prints tables in Markdown: medians and
// 99th percentiles of the wall time that a client sees, each as a ratio to the
// bare program of the same run, and rates, memory and CPU of the server.
package main

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"time"
)

func main() {
	o := options{}
	flag.StringVar(&o.binary, "binary", "bin/agentsandbox", "the server to measure")
	flag.StringVar(&o.against, "against", "", "another server, whose latencies are measured in turn with the first's")
	flag.StringVar(&o.python, "python", "/usr/bin/python3", "the bare Python to compare with")
	flag.StringVar(&o.dataPython, "data-python", "", "a Python of the host that has the data libraries; empty: that row has no ratio")
	flag.IntVar(&o.rounds, "rounds", 60, "how many times each variant is measured")
	flag.DurationVar(&o.sustained, "sustained", 60*time.Second, "how long each sustained load lasts")
	flag.IntVar(&o.sessions, "sessions", 500, "how many idle sessions are weighed")
	flag.IntVar(&o.transferMB, "transfer-mb", 1024, "the size of the file that is uploaded and downloaded")
	flag.IntVar(&o.idleNetworks, "idle-networks", 200, "how many idle sandboxes with a network are measured")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long they are measured")
	only := flag.String("only", "", "latency, rates, weight, transfer or network; empty: all")
	flag.Parse()
	if err := run(o, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	binary, against, python, dataPython string
	rounds                              int
	sustained                           time.Duration
	sessions                            int
	transferMB                          int
	idleNetworks                        int
	idle                                time.Duration
}

func run(o options, only string) error {
	dir, err := os.MkdirTemp("", "agentsandbox-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	warm, err := start(o.binary, filepath.Join(dir, "warm"))
	if err != nil {
		return err
	}
	defer warm.stop()
	stealBefore, totalBefore := stolen()
	defer func() {
		steal, total := stolen()
		fmt.Printf("\nMeasured on %d processors, of whose time the host gave %.0f %% to others meanwhile.\n",
			runtime.NumCPU(), 100*float64(steal-stealBefore)/float64(max(total-totalBefore, 1)))
	}()
	for _, part := range []struct {
		name    string
		measure func() error
	}{
		{"latency", func() error { return latency(o, dir, warm) }},
		{"rates", func() error { return rates(o, warm) }},
		{"weight", func() error { return weight(o, warm) }},
		{"transfer", func() error { return transfer(o, warm) }},
		{"network", func() error { return network(o, dir) }},
	} {
		if only != "" && only != part.name {
			continue
		}
		if err := part.measure(); err != nil {
			return fmt.Errorf("%s: %w", part.name, err)
		}
	}
	return nil
}
