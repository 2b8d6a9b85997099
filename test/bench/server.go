package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const (
	key = "bench-key-of-a-server-on-loopback"
	// awaitTimeout bounds the wait for a server, or for its pool to be full.
	awaitTimeout = 3 * time.Minute
)

// server is one running agentsandbox serve.
type server struct {
	url    string
	key    string
	group  string // the name of its control group
	cmd    *exec.Cmd
	client *http.Client
}

func start(binary, dir string, flags ...string) (*server, error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	addr := l.Addr().String()
	if err := l.Close(); err != nil {
		return nil, err
	}
	log, err := os.Create(dir + ".log")
	if err != nil {
		return nil, err
	}
	defer log.Close()
	s := &server{
		url:    "http://" + addr,
		key:    key,
		client: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 64}},
	}
	flags = append([]string{"serve", "--listen", addr, "--data-dir", dir, "--max-sandboxes", "600", "--reserve-percent", "1", "--on-shutdown", "destroy"}, flags...)
	s.cmd = exec.Command(binary, flags...)
	s.cmd.Env = append(os.Environ(), "AGENTSANDBOX_BOOTSTRAP_KEY="+key)
	s.cmd.Stdout, s.cmd.Stderr = log, log
	if err := s.cmd.Start(); err != nil {
		return nil, err
	}
	if err := await(s.ready); err != nil {
		s.stop()
		text, _ := os.ReadFile(dir + ".log")
		return nil, fmt.Errorf("the server does not get ready: %w\n%s", err, text)
	}
	if s.group, err = groupOf(filepath.Join(dir, "sandboxes")); err != nil {
		s.stop()
		return nil, err
	}
	return s, nil
}

// groupOf is what a server calls its control groups: after device and inode of its
// state directory or, in builds to compare with, after its path.
func groupOf(dir string) (string, error) {
	var st syscall.Stat_t
	if err := syscall.Stat(dir, &st); err != nil {
		return "", err
	}
	for _, named := range []string{fmt.Sprintf("%d:%d", st.Dev, st.Ino), dir} {
		digest := sha256.Sum256([]byte(named))
		name := "agentsandbox-" + hex.EncodeToString(digest[:6])
		if _, err := os.Stat(filepath.Join("/run", name)); err == nil {
			return name, nil
		}
	}
	return "", fmt.Errorf("no control group of a server with %s is known", dir)
}

func (s *server) ready() (bool, error) {
	resp, err := s.client.Get(s.url + "/readyz")
	if err != nil {
		return false, nil //nolint:nilerr // it does not listen yet
	}
	defer resp.Body.Close()
	return resp.StatusCode == http.StatusOK, nil
}

func (s *server) stop() {
	_ = s.cmd.Process.Signal(syscall.SIGTERM)
	_ = s.cmd.Wait()
}

func await(check func() (bool, error)) error {
	ctx, cancel := context.WithTimeout(context.Background(), awaitTimeout)
	defer cancel()
	for {
		ok, err := check()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.New("timed out")
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// metric returns the value of a metric without labels.
func (s *server) metric(name string) (float64, error) {
	resp, err := s.client.Get(s.url + "/metrics")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strconv.ParseFloat(strings.TrimSpace(value), 64)
		}
	}
	return 0, fmt.Errorf("no metric %s", name)
}

// full waits until the pool has all its sandboxes, or builds no more of them for
// want of memory, so that no refill takes CPU from the next measurement.
func (s *server) full() error {
	const settled = 3 * time.Second
	built := time.Now()
	return await(func() (bool, error) {
		size, err := s.metric("agentsandbox_pool_size")
		if err != nil {
			return false, err
		}
		ready, err := s.metric("agentsandbox_sandboxes_ready")
		if err != nil {
			return false, err
		}
		building, err := s.metric("agentsandbox_sandboxes_building")
		if building > 0 {
			built = time.Now()
		}
		return building == 0 && (ready == size || time.Since(built) > settled), err
	})
}

// empty waits until the last sandbox is gone: one that served a run is destroyed behind
// its answer.
func (s *server) empty() error {
	return await(func() (bool, error) {
		live, err := s.metric("agentsandbox_sandboxes_live")
		return live == 0, err
	})
}

func (s *server) cpu() (time.Duration, error) {
	seconds, err := s.metric("process_cpu_seconds_total")
	return time.Duration(seconds * float64(time.Second)), err
}

func (s *server) resident() (int64, error) {
	bytes, err := s.metric("process_resident_memory_bytes")
	return int64(bytes), err
}

func (s *server) do(method, path, mediaType string, body io.Reader, into any) error {
	req, err := http.NewRequest(method, s.url+path, body)
	if err != nil {
		return err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	req.Header.Set("Content-Type", mediaType)
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
	if into == nil {
		return nil
	}
	return json.Unmarshal(text, into)
}

func (s *server) session() (string, error) {
	var made struct {
		ID string `json:"session_id"`
	}
	err := s.do(http.MethodPost, "/v1/sessions", "application/json", strings.NewReader("{}"), &made)
	return made.ID, err
}

func (s *server) delete(session string) {
	if err := s.do(http.MethodDelete, "/v1/sessions/"+session, "application/json", nil, nil); err != nil {
		fmt.Fprintln(os.Stderr, "bench: deleting a session:", err)
	}
}

// execute runs code and returns how long the run took inside.
func (s *server) execute(session, language, code, want string) (time.Duration, error) {
	body := map[string]string{"code": code, "language": language}
	if session != noSession {
		body["session_id"] = session
	}
	encoded, err := json.Marshal(body)
	if err != nil {
		return 0, err
	}
	var result struct {
		Stdout     string `json:"stdout"`
		DurationMS int64  `json:"duration_ms"`
	}
	if err := s.do(http.MethodPost, "/v1/execute", "application/json", bytes.NewReader(encoded), &result); err != nil {
		return 0, err
	}
	return time.Duration(result.DurationMS) * time.Millisecond, check(result.Stdout, want)
}

// does is execute as a variant runs it.
func (s *server) does(session, language, code, want string) func() error {
	return func() error {
		_, err := s.execute(session, language, code, want)
		return err
	}
}

func (s *server) download(id string) (int64, error) {
	req, err := http.NewRequest(http.MethodGet, s.url+"/v1/files/"+id, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("Authorization", "Bearer "+s.key)
	resp, err := s.client.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	return io.Copy(io.Discard, resp.Body)
}
