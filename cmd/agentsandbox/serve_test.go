package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
	"github.com/agentsandbox/agentsandbox/internal/runtime/fake"
)

const testKey = "test-0123456789abcdef0123456789abcdef"

// host is a machine on which one daemon follows the other, with sandboxes that
// are directories. All else is real: store, contents, engine, HTTP.
type host struct {
	t       *testing.T
	dir     string
	runtime *fake.Runtime
	log     syncBuffer
	run     string // that is under way
	// Hooks of the next daemon's machine.
	afterRecover func() error
	prepare      func() error
	// dieAtFetch has a sandbox die when a file is fetched from it.
	dieAtFetch atomic.Bool
}

func newHost(t *testing.T) *host {
	h := &host{t: t, dir: t.TempDir(), runtime: fake.New(fake.Options{Dir: t.TempDir()})}
	t.Cleanup(func() {
		if err := h.runtime.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// hostMachine is the fake runtime as the machine of a daemon.
type hostMachine struct {
	*fake.Runtime
	h *host
}

func (m hostMachine) Recover(ctx context.Context, keep []string) (runtime.Recovered, error) {
	found, err := m.Runtime.Recover(ctx, keep)
	if m.h.afterRecover != nil {
		err = errors.Join(err, m.h.afterRecover())
	}
	return found, err
}

func (m hostMachine) Start(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	sb, err := m.Runtime.Start(ctx, spec)
	if err != nil {
		return nil, err
	}
	return fragile{sb.(*fake.Sandbox), m.h}, nil
}

// fragile is a sandbox that can be made to die between a run and its files.
type fragile struct {
	*fake.Sandbox
	h *host
}

func (s fragile) ReadFile(ctx context.Context, path string) (agentsandbox.PathInfo, io.ReadCloser, error) {
	if s.h.dieAtFetch.Load() {
		s.Die()
	}
	return s.Sandbox.ReadFile(ctx, path)
}

func (m hostMachine) Prepare(context.Context) error {
	if m.h.prepare != nil {
		return m.h.prepare()
	}
	return nil
}

func (hostMachine) MemoryUse(int64) (int64, error) { return 0, nil }

// Close leaves the sandboxes to the next daemon.
func (hostMachine) Close() error { return nil }

func (h *host) config(settings ...string) config.Config {
	h.t.Helper()
	environment := map[string]string{
		"AGENTSANDBOX_LISTEN": "127.0.0.1:0", "AGENTSANDBOX_DATA_DIR": h.dir, "AGENTSANDBOX_CACHE_DIR": h.t.TempDir(),
		"AGENTSANDBOX_BOOTSTRAP_KEY": testKey, "AGENTSANDBOX_POOL_SIZE": "1", "AGENTSANDBOX_PRELOAD": "none", "AGENTSANDBOX_EGRESS_MODE": "off",
		"AGENTSANDBOX_SHUTDOWN_GRACE_MS": "100", "AGENTSANDBOX_ON_SHUTDOWN": config.OnShutdownKeep,
	}
	for _, s := range settings {
		name, value, _ := strings.Cut(s, "=")
		environment[name] = value
	}
	r, err := config.Load(config.Sources{Getenv: func(name string) string { return environment[name] }})
	if err != nil {
		h.t.Fatal(err)
	}
	return r.Config
}

// running is a daemon that serves.
type running struct {
	h    *host
	d    *daemon
	url  string
	stop func() error
}

var readyOn = regexp.MustCompile(`is ready on (\S+)`)

// launch starts a daemon; ended gets what it ends with, and url, if it gets so
// far, where it listens.
func (h *host) launch(ctx context.Context, settings ...string) (d *daemon, url <-chan string, ended <-chan error) {
	h.t.Helper()
	said, out := io.Pipe()
	d = &daemon{cfg: h.config(settings...), log: slog.New(slog.NewTextHandler(&h.log, nil)), stdout: out}
	urls, end := make(chan string, 1), make(chan error, 1)
	go func() {
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if m := readyOn.FindStringSubmatch(lines.Text()); m != nil {
				urls <- m[1]
			}
		}
	}()
	go func() {
		end <- d.serve(ctx, func(config.Config, runtime.Network, *slog.Logger) (machine, error) {
			return hostMachine{h.runtime, h}, nil
		})
		out.Close()
	}()
	return d, urls, end
}

// start starts a daemon and waits until it is ready.
func (h *host) start(settings ...string) *running {
	h.t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	d, url, ended := h.launch(ctx, settings...)
	r := &running{h: h, d: d, stop: sync.OnceValue(func() error {
		cancel()
		return <-ended
	})}
	h.t.Cleanup(func() { _ = r.stop() })
	select {
	case r.url = <-url:
	case err := <-ended:
		cancel()
		h.t.Fatalf("the daemon ended: %v\n%s", err, h.log.String())
	case <-time.After(5 * time.Minute):
		cancel()
		h.t.Fatalf("the daemon is not ready:\n%s", h.log.String())
	}
	return r
}

// fails starts a daemon that must end with an error by itself.
func (h *host) fails(ctx context.Context, settings ...string) error {
	h.t.Helper()
	_, _, ended := h.launch(ctx, settings...)
	select {
	case err := <-ended:
		return err
	case <-time.After(5 * time.Minute):
		h.t.Fatalf("the daemon goes on:\n%s", h.log.String())
		return nil
	}
}

// ask sends a request with the bootstrap key and decodes the answer.
func (r *running) ask(method, path string, body any, header ...string) (status int, answer map[string]any) {
	r.h.t.Helper()
	return r.askAs(testKey, method, path, body, header...)
}

func (r *running) askAs(key, method, path string, body any, header ...string) (status int, answer map[string]any) {
	r.h.t.Helper()
	var sent io.Reader
	if body != nil {
		text, err := json.Marshal(body)
		if err != nil {
			r.h.t.Fatal(err)
		}
		sent = bytes.NewReader(text)
	}
	req, err := http.NewRequestWithContext(r.h.t.Context(), method, r.url+path, sent)
	if err != nil {
		r.h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+key)
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		r.h.t.Fatal(err)
	}
	defer resp.Body.Close()
	_ = json.NewDecoder(resp.Body).Decode(&answer) // there may be none
	return resp.StatusCode, answer
}

// session makes a session with a file in it.
func (r *running) session() string {
	r.h.t.Helper()
	status, s := r.ask("POST", "/v1/sessions", map[string]any{})
	if status/100 != 2 {
		r.h.t.Fatal(status, s)
	}
	id := s["session_id"].(string)
	r.run(id, "echo state > kept")
	return id
}

func (r *running) run(session, code string) map[string]any {
	r.h.t.Helper()
	status, x := r.ask("POST", "/v1/execute", map[string]any{"code": code, "language": "bash", "session_id": session})
	if status != http.StatusOK {
		r.h.t.Fatalf("%d %v\n%s", status, x, r.h.log.String())
	}
	return x
}

// wantAlive fails unless the session is as it was.
func (r *running) wantAlive(session string) {
	r.h.t.Helper()
	if out := r.run(session, "cat kept")["stdout"]; out != "state\n" {
		r.h.t.Errorf("the session has %q; want what was there before", out)
	}
}

// end deletes a session and ends the daemon.
func (r *running) end(session string) {
	r.h.t.Helper()
	if status, _ := r.ask("DELETE", "/v1/sessions/"+session, nil); status != http.StatusNoContent {
		r.h.t.Errorf("deleting the session: %d", status)
	}
	if err := r.stop(); err != nil {
		r.h.t.Error(err)
	}
}

func TestTheDaemonStartsAndStartsAgain(t *testing.T) {
	h := newHost(t)
	first := h.start()
	session := first.session()
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	again := h.start() // with the same key
	again.wantAlive(session)
	again.end(session)
	if n := h.runtime.Live(); n != 0 {
		t.Errorf("%d sandboxes are left", n)
	}
}

// TestAStartThatFailsLosesNothing fails a start at each moment after the sandboxes
// were taken over: the sessions, and what runs in them, wait for the next start.
func TestAStartThatFailsLosesNothing(t *testing.T) {
	failure := errors.New("made to fail")
	for name, fail := range map[string]func(h *host, settings ...string) error{
		"while it recovers": func(h *host, settings ...string) error {
			h.afterRecover = func() error { return failure }
			return h.fails(context.Background(), settings...)
		},
		"stopped while it recovers": func(h *host, settings ...string) error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			h.afterRecover = func() error { cancel(); return nil }
			return h.fails(ctx, settings...)
		},
		"reading what a run has said": func(h *host, settings ...string) error {
			inTheWay := filepath.Join(h.dir, logsDir, h.run)
			if err := os.MkdirAll(inTheWay, 0o700); err != nil {
				h.t.Fatal(err)
			}
			defer os.RemoveAll(inTheWay)
			return h.fails(context.Background(), settings...)
		},
		"preparing": func(h *host, settings ...string) error {
			h.prepare = func() error { return failure }
			return h.fails(context.Background(), settings...)
		},
		"the listener": func(h *host, settings ...string) error {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			d, url, ended := h.launch(ctx, settings...)
			<-url
			_ = d.listener.Close()
			return <-ended
		},
	} {
		for _, onShutdown := range []string{config.OnShutdownKeep, config.OnShutdownDestroy} {
			if onShutdown == config.OnShutdownDestroy && name == "stopped while it recovers" {
				continue // that was asked for
			}
			t.Run(name+"/"+onShutdown, func(t *testing.T) {
				h := newHost(t)
				first := h.start()
				session := first.session()
				id := first.begin(session)
				h.run = id
				if err := first.stop(); err != nil {
					t.Fatal(err)
				}
				for range 2 {
					err := fail(h, "AGENTSANDBOX_ON_SHUTDOWN="+onShutdown)
					if err == nil && name != "stopped while it recovers" {
						t.Fatal("the start did not fail")
					}
				}
				if strings.Contains(h.log.String(), "died") {
					t.Errorf("a session that is let go of was taken for dead:\n%s", h.log.String())
				}
				h.afterRecover, h.prepare = nil, nil
				again := h.start()
				again.wantAlive(session)
				again.run(session, "touch go")
				if x := again.outcome(id); x["status"] != "succeeded" || x["stdout"] != "over\n" {
					t.Errorf("the run that was under way: %v", x)
				}
				again.end(session)
			})
		}
	}
}

// begin starts a run that waits for the file "go", and returns its id once it has
// begun.
func (r *running) begin(session string) string {
	r.h.t.Helper()
	return r.beginAs(session, "")
}

// waits is a run that says how often it was begun, and waits for the file "go".
func waits(session string) map[string]any {
	return map[string]any{"code": "echo >> begun; until test -e go; do sleep 0.01; done; echo over", "language": "bash", "session_id": session}
}

// beginAs is begin with an Idempotency-Key, if one is given.
func (r *running) beginAs(session, key string) string {
	r.h.t.Helper()
	body, err := json.Marshal(waits(session))
	if err != nil {
		r.h.t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(context.Background(), "POST", r.url+"/v1/execute", bytes.NewReader(body))
	if err != nil {
		r.h.t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+testKey)
	if key != "" {
		req.Header.Set("Idempotency-Key", key)
	}
	var asked sync.WaitGroup
	asked.Go(func() {
		if resp, err := http.DefaultClient.Do(req); err == nil {
			resp.Body.Close()
		}
	})
	r.h.t.Cleanup(asked.Wait)
	r.run(session, "until test -e begun; do sleep 0.01; done")
	_, list := r.ask("GET", "/v1/executions?status=running&session_id="+session, nil)
	return list["executions"].([]any)[0].(map[string]any)["id"].(string)
}

// outcome waits for the end of an execution.
func (r *running) outcome(id string) (x map[string]any) {
	r.h.t.Helper()
	for deadline := time.After(5 * time.Minute); ; {
		if _, x = r.ask("GET", "/v1/executions/"+id, nil); x["status"] != string(agentsandbox.StatusRunning) {
			return x
		}
		select {
		case <-deadline:
			r.h.t.Fatalf("the execution goes on: %v", x)
		case <-time.After(10 * time.Millisecond):
		}
	}
}

func TestAKeyRunsTheCodeOnceAcrossARestart(t *testing.T) {
	for name, stop := range map[string]func(*running) error{
		"in order": func(r *running) error { return r.stop() },
		"twice": func(r *running) error {
			if err := r.stop(); err != nil {
				return err
			}
			return r.h.start().stop()
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			first := h.start()
			session := first.session()
			id := first.beginAs(session, "once")
			if err := stop(first); err != nil {
				t.Fatal(err)
			}
			again := h.start()
			var asked sync.WaitGroup
			for range 3 {
				asked.Go(func() {
					status, x := again.ask("POST", "/v1/execute", waits(session), "Idempotency-Key", "once")
					if status != http.StatusOK || x["execution_id"] != id || x["stdout"] != "over\n" {
						t.Errorf("the repeated request: %d %v; want the outcome of %s", status, x, id)
					}
				})
			}
			again.run(session, "touch go")
			asked.Wait()
			if n := again.run(session, "wc -l < begun")["stdout"]; strings.TrimSpace(n.(string)) != "1" {
				t.Errorf("the code was begun %s times", n)
			}
			again.end(session)
		})
	}
}

// TestAKeyRunsTheCodeOnceAlthoughItsSandboxDies: the sandbox dies between the
// result and its files, and the request fails.
func TestAKeyRunsTheCodeOnceAlthoughItsSandboxDies(t *testing.T) {
	h := newHost(t)
	d := h.start()
	for name, body := range map[string]map[string]any{
		"in a session": {"code": "echo x > made.txt; echo over", "language": "bash", "session_id": d.session()},
		"in a sandbox": {"code": "echo x > made.txt; echo over", "language": "bash"},
	} {
		h.dieAtFetch.Store(true)
		first, x := d.ask("POST", "/v1/execute", body, "Idempotency-Key", name)
		if first < 500 {
			t.Fatalf("%s: the files were kept: %d %v", name, first, x)
		}
		h.dieAtFetch.Store(false)
		for range 2 {
			status, x := d.ask("POST", "/v1/execute", body, "Idempotency-Key", name)
			if status != http.StatusOK || x["stdout"] != "over\n" || !strings.Contains(fmt.Sprint(x["error"]), "could not be kept") {
				t.Errorf("%s: the repeated request: %d %v; want what became of the run", name, status, x)
			}
		}
	}
	if _, list := d.ask("GET", "/v1/executions", nil); list["total"].(float64) != 3 {
		t.Errorf("%v executions; want one for each key, and the session's first", list["total"])
	}
	if err := d.stop(); err != nil {
		t.Error(err)
	}
}

func TestARevokedBootstrapKeyLosesNothing(t *testing.T) {
	h := newHost(t)
	first := h.start()
	_, made := first.ask("POST", "/v1/api-keys", map[string]any{"name": "another", "scopes": []string{"sandbox", "admin"}})
	another, _ := made["key_value"].(string)
	session := first.session()
	_, list := first.ask("GET", "/v1/api-keys", nil)
	for _, k := range list["keys"].([]any) {
		if k := k.(map[string]any); k["name"] != "another" {
			if status, e := first.askAs(another, "DELETE", "/v1/api-keys/"+k["id"].(string), nil); status/100 != 2 {
				t.Fatal(status, e)
			}
		}
	}
	if err := first.stop(); err != nil {
		t.Fatal(err)
	}
	if err := h.fails(context.Background()); err == nil {
		t.Fatal("a start with a revoked key did not fail")
	}
	again := h.start("AGENTSANDBOX_BOOTSTRAP_KEY=" + another)
	status, x := again.askAs(another, "POST", "/v1/execute", map[string]any{"code": "cat kept", "language": "bash", "session_id": session})
	if status != http.StatusOK || x["stdout"] != "state\n" {
		t.Errorf("after the failed start: %d %v\n%s", status, x, h.log.String())
	}
	again.askAs(another, "DELETE", "/v1/sessions/"+session, nil)
}

// syncBuffer is a buffer that several may write.
type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}
