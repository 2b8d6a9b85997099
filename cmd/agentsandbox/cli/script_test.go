package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
	"github.com/agentsandbox/agentsandbox/internal/config"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
)

// The scripts run this test binary as the program, against the real HTTP layer
// with a service behind it that runs nothing.
func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"agentsandbox": func() { os.Exit(Main(context.Background(), os.Args[1:], Process(), localForTests())) },
	})
}

const testKey = "asbx_right"

func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		Setup: func(env *testscript.Env) error {
			server, err := newServer(&clienttest.Service{Programs: programs, Audit: audited})
			if err != nil {
				return err
			}
			env.Defer(server.Close)
			env.Setenv("AGENTSANDBOX_BASE_URL", server.URL)
			env.Setenv("AGENTSANDBOX_API_KEY", testKey)
			env.Setenv("COLUMNS", "100")
			env.Setenv("HOME", env.WorkDir)
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits":   exits,
			"setout":  setout,
			"capture": capture,
			"write":   write,
		},
	})
}

// exits runs a command and checks its exit status: exits 3 agentsandbox …
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	if neg || err != nil {
		ts.Fatalf("usage: exits STATUS COMMAND…")
	}
	got := 0
	var exit *exec.ExitError
	if err := ts.Exec(args[1], args[2:]...); errors.As(err, &exit) {
		got = exit.ExitCode()
	} else if err != nil {
		ts.Fatalf("%v", err)
	}
	if got != want {
		ts.Fatalf("the exit status is %d, want %d", got, want)
	}
}

// setout keeps the last standard output in a variable: setout id
func setout(ts *testscript.TestScript, _ bool, args []string) {
	ts.Setenv(args[0], strings.TrimSpace(ts.ReadFile("stdout")))
}

// capture keeps the first group of a pattern that the last standard output
// matches: capture id '"session_id": "([^"]+)"'
func capture(ts *testscript.TestScript, _ bool, args []string) {
	match := regexp.MustCompile(args[1]).FindStringSubmatch(ts.ReadFile("stdout"))
	if match == nil {
		ts.Fatalf("no match of %s", args[1])
	}
	ts.Setenv(args[0], match[1])
}

// write writes a file from a Go string literal: write name "\x1b[31m"
func write(ts *testscript.TestScript, _ bool, args []string) {
	text, err := strconv.Unquote(`"` + args[1] + `"`)
	ts.Check(err)
	ts.Check(os.WriteFile(ts.MkAbs(args[0]), []byte(text), 0o600))
}

// programs are what can be run in the scripts.
var programs = []clienttest.Program{
	{Code: "hello\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Stdout: []byte("out\n"), Stderr: []byte("err\n"), DurationMS: 12}},
	{Code: "#!/bin/sh\nhello\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Stdout: []byte("sh\n")}},
	{Code: "exit 3\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusFailed, ReturnCode: 3, Stdout: []byte("partly\n")}},
	{Code: "raw\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Stdout: []byte("\x1b[31m\xff")}},
	{Code: "slow\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusTimedOut, ReturnCode: 124}},
	{Code: "lost\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSandboxLost, ReturnCode: 137}},
	{Code: "yes\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Stdout: []byte("y"), StdoutBytes: 99, Truncated: true,
		Stderr:       []byte("agentsandbox: the output was cut: the first 1 of 99 bytes of standard output are kept\n"),
		FilesOmitted: 4, OmittedReasons: map[agentsandbox.OmittedReason]int{agentsandbox.OmittedSizeLimit: 3, agentsandbox.OmittedIgnored: 1},
		NetworkRefused: []agentsandbox.NetworkRefusal{{Host: "example.org", Port: 443, Reason: "not_allowed", Rule: "in no allow-list", Count: 2}}, NetworkRefusedOmitted: 5}},
	{Code: "memory\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusMemoryExceeded, ReturnCode: 137}},
	{Code: "impossible\n", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusFailed, ReturnCode: 256}},
	{Code: "'ls' '-l' 'it'\\''s here'", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Stdout: []byte("quoted\n")}},
	{Code: "ls | wc -l", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusFailed, ReturnCode: 2, Stdout: []byte("line\n")}},
	{
		Code: "files\n",
		Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Files: []agentsandbox.File{
			{Filename: "a.txt", Path: "/workspace/a.txt"}, {Filename: "deep/b.txt", Path: "/workspace/deep/b.txt"},
			{Filename: "c.txt", Path: "/workspace/c.txt"}, {Filename: "c.txt", Path: "/output/c.txt"},
			{Filename: "\x1b[31mred", Path: "/workspace/\x1b[31mred"},
		}},
		Contents: map[string]string{"a.txt": "A\n", "deep/b.txt": "B\n", "c.txt": "C\n", "\x1b[31mred": "R\n"},
	},
	{
		Code: "names\n",
		Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Files: []agentsandbox.File{
			{Filename: "a\xff", Path: "/workspace/a\xff"}, {Filename: "a\xfe", Path: "/workspace/a\xfe"},
		}},
	},
	{
		Code: "escape\n",
		Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, Files: []agentsandbox.File{
			{Filename: "../evil", Path: "/workspace/../evil"}, {Filename: "/evil", Path: "/evil"},
			{Filename: "link/evil", Path: "/workspace/link/evil"}, {Filename: "taken", Path: "/workspace/taken"}, {Filename: "good", Path: "/workspace/good"},
		}},
		Contents: map[string]string{"../evil": "E", "/evil": "E", "link/evil": "E", "taken": "E\n", "good": "G\n"},
	},
}

func newServer(service agentsandbox.Service) (*httptest.Server, error) {
	api, err := v1.New(v1.Options{Service: service, Ready: func() error { return nil }})
	if err != nil {
		return nil, err
	}
	handler, err := edge.New(edge.Options{
		Authenticate: func(_ context.Context, key string) (agentsandbox.Principal, error) {
			if key != testKey {
				return agentsandbox.Principal{}, agentsandbox.Errorf(agentsandbox.CodeUnauthorized, "This key is not known.")
			}
			return agentsandbox.Principal{KeyID: "key_1", Tenant: "main", Scopes: agentsandbox.Scopes}, nil
		},
		Idempotency: new(clienttest.Keys),
		Logger:      slog.New(slog.DiscardHandler),
	}, api)
	if err != nil {
		return nil, err
	}
	return httptest.NewServer(handler), nil
}

// localForTests is a machine whose state the scripts choose with variables.
func localForTests() Local {
	return Local{
		Version: "v1.2.3",
		Serve: func(_ context.Context, cfg config.Config, log *slog.Logger, stdout io.Writer) error {
			log.Info("serving", "listen", cfg.Listen)
			_, err := fmt.Fprintf(stdout, "listen %s, pool %d\n", cfg.Listen, cfg.PoolSize)
			return err
		},
		Templates: func(cfg config.Config, _ *slog.Logger) (Templates, error) { return &templatesForTests{cfg}, nil },
		Probe: func(context.Context, config.Config, *slog.Logger) ([]ProbeRow, error) {
			if os.Getenv("TEST_NO_CGROUP") != "" {
				return []ProbeRow{{Side: "inside", Name: "uid", Value: "0", Expected: "1000"}}, nil
			}
			return []ProbeRow{{Side: "inside", Name: "uid", Value: "1000", Expected: "1000", OK: true}}, nil
		},
		Check: func(_ context.Context, cfg config.Config) (Report, error) {
			return Report{
				Findings: []Finding{
					{Name: "kernel", OK: true, Required: true, Detail: "Linux 6.18"},
					{Name: "cgroup", OK: os.Getenv("TEST_NO_CGROUP") == "", Required: true, Detail: "memory, cpu, pids", Remedy: "Mount them."},
					{Name: "kvm", Detail: "no /dev/kvm", Remedy: "Not needed."},
				},
				Protections: []Finding{{Name: "seccomp", OK: true, Detail: "in force"}},
			}, nil
		},
		AuditVerify: func(_ context.Context, cfg config.Config, head string) (agentsandbox.AuditReport, error) {
			report := agentsandbox.AuditReport{Rows: 2, Head: "abcd"}
			switch {
			case strings.HasSuffix(cfg.DataDir, "broken"):
				report = agentsandbox.AuditReport{Rows: 1, Head: "ab", Broken: 2, Reason: "it is missing"}
			case head != "":
				report.Broken, report.Reason = 3, "no row has the hash "+head
			}
			return report, nil
		},
	}
}

// audited is the audit log of the scripts' server.
var audited = []agentsandbox.AuditEntry{
	{Seq: 2, At: clienttest.Epoch, Tenant: "main", KeyID: "key_1", RequestID: "req_1", Remote: "127.0.0.1:9", Action: "execute", ObjectID: "exe_1", Outcome: agentsandbox.AuditOK, Hash: "abcd"},
	{Seq: 1, At: clienttest.Epoch, Tenant: "main", Action: "bootstrapKey", ObjectID: "key_1", Outcome: agentsandbox.AuditOK, Hash: "ab"},
}

type templatesForTests struct{ cfg config.Config }

func (s *templatesForTests) template() Template {
	return Template{
		Name: "default", Digest: "sha256:ab", Path: s.cfg.CacheDir + "/ab", SizeBytes: 700 << 20, BuiltAt: time.Unix(0, 0),
		Inputs: map[string]string{"release": "bookworm"}, Packages: []Package{{Name: "numpy", Version: "2.0", Kind: "python"}},
	}
}

func (s *templatesForTests) List(context.Context) ([]Template, error) {
	return []Template{s.template()}, nil
}

func (s *templatesForTests) Build(_ context.Context, name string, progress func(string)) (Template, error) {
	progress("packages: 1 of 2")
	return s.Inspect(context.Background(), name)
}

func (s *templatesForTests) Inspect(_ context.Context, name string) (Template, error) {
	if name != "default" {
		return Template{}, fmt.Errorf("no template is called %q; \"agentsandbox templates list\" shows them", name)
	}
	return s.template(), nil
}

func (s *templatesForTests) Remove(_ context.Context, name string) error {
	_, err := s.Inspect(context.Background(), name)
	return err
}
