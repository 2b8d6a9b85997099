// Command bench measures Agent Sandbox side by side with what a user would run
// instead, in one run on one machine: bare Python, Python in bubblewrap, a fresh
// sandbox from a warm pool, one made on demand, and a run in a live session.
//
// The variants take turns within each round, so that the noise of a shared
// machine falls on all of them alike. It prints a table in Markdown: medians and
// 99th percentiles of the wall time that a client sees, and the ratio to bare
// Python.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	python   = "/usr/bin/python3"
	program  = "print(1)"
	expected = "1\n"
	key      = "bench-key-of-a-server-on-loopback"
	// fullTimeout bounds the wait for the pool to be full again.
	fullTimeout = time.Minute
)

func main() {
	rounds := flag.Int("rounds", 100, "how many times each variant is measured")
	binary := flag.String("binary", "bin/agentsandbox", "the server to measure")
	flag.Parse()
	if err := run(*binary, *rounds); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// variant is one way to run the program. ready, if set, is awaited before each
// measurement and is not part of it.
type variant struct {
	name  string
	ready func() error
	once  func() error
}

func run(binary string, rounds int) error {
	dir, err := os.MkdirTemp("", "agentsandbox-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const poolSize = 2
	warm, err := start(binary, filepath.Join(dir, "warm"), poolSize)
	if err != nil {
		return err
	}
	defer warm.stop()
	cold, err := start(binary, filepath.Join(dir, "cold"), 0)
	if err != nil {
		return err
	}
	defer cold.stop()
	session, err := warm.session()
	if err != nil {
		return err
	}
	variants := []variant{
		{name: "bare python3", once: command(python, "-c", program)},
		{name: "bubblewrap + python3", once: command("bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent", "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", python, "-c", program)},
		{name: "fresh sandbox, warm pool", ready: func() error { return warm.full(poolSize) }, once: func() error { return warm.execute("") }},
		{name: "fresh sandbox, empty pool", ready: func() error { return warm.full(poolSize) }, once: func() error { return cold.execute("") }},
		{name: "live session", ready: func() error { return warm.full(poolSize) }, once: func() error { return warm.execute(session) }},
	}
	times := make([][]time.Duration, len(variants))
	for round := range rounds + 1 {
		for i, v := range variants {
			if v.ready != nil {
				if err := v.ready(); err != nil {
					return fmt.Errorf("%s: %w", v.name, err)
				}
			}
			began := time.Now()
			if err := v.once(); err != nil {
				return fmt.Errorf("%s: %w", v.name, err)
			}
			if round > 0 { // the first round warms caches and connections
				times[i] = append(times[i], time.Since(began))
			}
		}
		if round%10 == 0 {
			fmt.Fprintf(os.Stderr, "\rround %d of %d", round, rounds)
		}
	}
	fmt.Fprintln(os.Stderr)
	report(variants, times)
	return nil
}

func report(variants []variant, times [][]time.Duration) {
	fmt.Printf("`%s`, %d rounds\n\n", program, len(times[0]))
	fmt.Println("| what | median | p99 | median to bare Python |")
	fmt.Println("|---|---:|---:|---:|")
	base := quantile(times[0], 0.5)
	for i, v := range variants {
		median := quantile(times[i], 0.5)
		fmt.Printf("| %s | %s | %s | %.2f |\n", v.name, ms(median), ms(quantile(times[i], 0.99)), float64(median)/float64(base))
	}
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func command(name string, args ...string) func() error {
	return func() error {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return err
		}
		return check(string(out))
	}
}

func check(out string) error {
	if out != expected {
		return fmt.Errorf("the output is %q, not %q", out, expected)
	}
	return nil
}

// server is one running agentsandbox serve.
type server struct {
	url    string
	cmd    *exec.Cmd
	client *http.Client
}

func start(binary, data string, poolSize int) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	log, err := os.Create(data + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{url: "http://" + addr, client: &http.Client{}}
	s.cmd = exec.Command(binary, "serve", "--listen", addr, "--data-dir", data, "--pool-size", strconv.Itoa(poolSize))
	s.cmd.Env = append(os.Environ(), "AGENTSANDBOX_BOOTSTRAP_KEY="+key)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := s.await(func() (bool, error) {
		resp, err := s.client.Get(s.url + "/readyz")
		if err != nil {
			return false, nil //nolint:nilerr // it does not listen yet
		}
		defer resp.Body.Close()
		return resp.StatusCode == http.StatusOK, nil
	}); err != nil {
		s.stop()
		text, _ := os.ReadFile(data + ".log")
		return nil, fmt.Errorf("the server does not get ready: %w\n%s", err, text)
	}
	return s, nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

func (s *server) await(check func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), fullTimeout)
	defer cancel()
	for {
		ok, err := check()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("timed out")
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// full waits until the pool has all its sandboxes, so that no refill takes CPU
// from the next measurement.
func (s *server) full(size int) error {
	return s.await(func() (bool, error) {
		resp, err := s.client.Get(s.url + "/metrics")
		if err != nil {
			return false, err
		}
		defer resp.Body.Close()
		text, err := io.ReadAll(resp.Body)
		if err != nil {
			return false, err
		}
		for line := range strings.Lines(string(text)) {
			if name, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && strings.HasPrefix(name, "agentsandbox_sandboxes_ready") {
				return value == strconv.Itoa(size), nil
			}
		}
		return false, errors.New("no metric agentsandbox_sandboxes_ready")
	})
}

func (s *server) post(path string, body, into any) error {
	b, err := json.Marshal(body)
	if err != nil {
		return err
	}
	req, err := http.NewRequest(http.MethodPost, s.url+path, bytes.NewReader(b))
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+key)
	req.Header.Set("Content-Type", "application/json")
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return err
	}
	if resp.StatusCode >= 300 {
		return fmt.Errorf("%s: %s", resp.Status, text)
	}
	return json.Unmarshal(text, into)
}

func (s *server) session() (string, error) {
	var made struct {
		ID string `json:"session_id"`
	}
	err := s.post("/v1/sessions", struct{}{}, &made)
	return made.ID, err
}

func (s *server) execute(session string) error {
	var result struct {
		Stdout string `json:"stdout"`
	}
	body := map[string]string{"code": program}
	if session != "" {
		body["session_id"] = session
	}
	if err := s.post("/v1/execute", body, &result); err != nil {
		return err
	}
	return check(result.Stdout)
}
