package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
)

// world is one made of buffers.
func world(stdin string) (World, *bytes.Buffer, *bytes.Buffer) {
	var stdout, stderr bytes.Buffer
	return World{
		Stdin: strings.NewReader(stdin), Stdout: &stdout, Stderr: &stderr,
		Getenv: func(string) string { return "" }, UID: 1000,
		Now: func() time.Time { return clienttest.Epoch },
	}, &stdout, &stderr
}

func TestInterruptEndsTheRun(t *testing.T) {
	began := make(chan string)
	server, err := newServer(&clienttest.Service{Hold: began})
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	w, _, stderr := world("hang")
	status := Main(ctx, []string{"run", "-", "--server", server.URL, "--api-key", testKey}, w, Local{})
	if status != exitInterrupted || stderr.String() != "agentsandbox: interrupted\n" {
		t.Errorf("status %d, %q", status, stderr)
	}
}

func TestFlagsArriveAsTheyWereGiven(t *testing.T) {
	service := &clienttest.Service{Programs: []clienttest.Program{{Code: "x", Outcome: agentsandbox.Execution{Status: agentsandbox.StatusSucceeded}}}}
	server, err := newServer(service)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	w, _, stderr := world("x")
	w.Getenv = func(name string) string { return map[string]string{"HERE": "from,here"}[name] }
	args := []string{"run", "-", "-e", "A=1,2;3", "--env", "HERE", "-e", "EMPTY=", "-t", "1500ms", "--memory-mb", "64", "--cpus", "0.5",
		"-l", "bash", "--server", server.URL, "--api-key", testKey}
	if status := Main(t.Context(), args, w, Local{}); status != exitOK {
		t.Fatalf("status %d, %s", status, stderr)
	}
	got, _ := service.Requests()[0].(agentsandbox.ExecuteRequest)
	got.Endpoint, got.Method, got.Meta = "", "", nil
	want := agentsandbox.ExecuteRequest{
		Code: "x", Language: agentsandbox.Bash, TimeoutMS: 1500, MemoryMB: 64, CPUs: 0.5,
		Env: map[string]string{"A": "1,2;3", "HERE": "from,here", "EMPTY": ""},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestATerminalIsNotDrivenByWhatItShows(t *testing.T) {
	service := &clienttest.Service{}
	server, err := newServer(service)
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	hostile := "a\x1b]0;title\a\u202e\u009b31mü\xff\tb\nc\xe2"
	file, err := service.UploadFile(t.Context(), agentsandbox.FileUpload{Filename: "x"}, strings.NewReader(hostile))
	if err != nil {
		t.Fatal(err)
	}
	for terminal, want := range map[bool]string{
		false: hostile,
		true:  "a\\x1b]0;title\\a\\u202e\\u009b31mü\\xff\tb\nc\\xe2",
	} {
		w, stdout, stderr := world("")
		w.StdoutTerminal = terminal
		status := Main(t.Context(), []string{"files", "download", file.ID, "--server", server.URL, "--api-key", testKey}, w, Local{})
		if status != exitOK || stdout.String() != want {
			t.Errorf("terminal %v: status %d, %q, %s; want %q", terminal, status, stdout, stderr, want)
		}
	}
}

func TestNeutralWriterAtEveryCut(t *testing.T) {
	const text, want = "ü\x1b€\xe2\x82!\n", "ü\\x1b€\\xe2\\x82!\n"
	for cut := range len(text) {
		var out bytes.Buffer
		w := &neutralWriter{w: &out}
		for _, part := range []string{text[:cut], text[cut:]} {
			if n, err := io.WriteString(w, part); err != nil || n != len(part) {
				t.Fatal(n, err)
			}
		}
		if err := w.Close(); err != nil || out.String() != want {
			t.Errorf("cut at %d: %q, %v", cut, out.String(), err)
		}
	}
}

func TestJSONIsSafeAndStaysTheSame(t *testing.T) {
	w, stdout, _ := world("")
	a := &app{World: w, ctx: t.Context()}
	name := "<&>\u009b\u202e\u2028\x7f\x1b\"ü\U0001F600\n"
	if err := a.printJSON(map[string]string{"name": name}); err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(strings.ReplaceAll(stdout.String(), "\n", ""), risky) || !strings.Contains(stdout.String(), "<&>") {
		t.Errorf("printed %q", stdout)
	}
	var back map[string]string
	if err := json.Unmarshal(stdout.Bytes(), &back); err != nil || back["name"] != name {
		t.Errorf("read back %q, %v", back["name"], err)
	}
}

func TestProgressIsForPeopleWhoWait(t *testing.T) {
	for name, test := range map[string]struct {
		terminal bool
		step     time.Duration // between two reads
		want     string
	}{
		"slow":        {true, 600 * time.Millisecond, "\rbig: 4 B of 8 B (50 %) \rbig: 6 B of 8 B (75 %) \rbig: 8 B of 8 B (100 %) \rbig: 8 B of 8 B (100 %) \rbig: 8 B of 8 B (100 %) \n"},
		"fast":        {true, 100 * time.Millisecond, ""},
		"no terminal": {false, time.Minute, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w, _, stderr := world("")
			now := clienttest.Epoch
			w.Now = func() time.Time { now = now.Add(test.step); return now }
			w.StderrTerminal = test.terminal
			a := &app{World: w}
			p := a.progress(strings.NewReader("12345678"), "big", 8)
			if _, err := io.CopyBuffer(struct{ io.Writer }{io.Discard}, struct{ io.Reader }{p}, make([]byte, 2)); err != nil {
				t.Fatal(err)
			}
			p.done()
			if stderr.String() != test.want {
				t.Errorf("got %q", stderr)
			}
		})
	}
}

func TestLanguageOf(t *testing.T) {
	for _, test := range []struct {
		flag, path, code string
		want             agentsandbox.Language // "": an error
	}{
		{"", "a.py", "#!/bin/bash", agentsandbox.Python},
		{"", "a.SH", "", agentsandbox.Bash},
		{"bash", "a.py", "", agentsandbox.Bash},
		{"", "-", "print(1)", agentsandbox.Python},
		{"", "tool", "#!/usr/bin/env python3\n", agentsandbox.Python},
		{"", "tool", "#!/usr/bin/env -S X=1 bash -e\n", agentsandbox.Bash},
		{"", "tool", "#! /bin/sh", agentsandbox.Bash},
		{"", "tool", "#!\nprint(1)", agentsandbox.Python},
		{"", "tool", "#!/usr/bin/perl\n", ""},
		{"ruby", "a.py", "", ""},
	} {
		got, err := languageOf(test.flag, test.path, []byte(test.code))
		if got != test.want || (err == nil) != (test.want != "") {
			t.Errorf("%+v: %q, %v", test, got, err)
		}
	}
}

func TestStatusOf(t *testing.T) {
	for _, test := range []struct {
		status agentsandbox.Status
		code   int
		want   error
	}{
		{agentsandbox.StatusSucceeded, 0, nil},
		{agentsandbox.StatusFailed, 1, codeStatus(1)},
		{agentsandbox.StatusFailed, 255, codeStatus(255)},
		{agentsandbox.StatusTimedOut, 124, codeStatus(124)},
		{agentsandbox.StatusMemoryExceeded, 137, codeStatus(137)},
		{agentsandbox.StatusOutputLimit, 0, nil},
		{agentsandbox.StatusDiskFull, 1, codeStatus(1)},
		{agentsandbox.StatusCancelled, 0, codeStatus(exitNoRun)},
		{agentsandbox.StatusSandboxLost, 0, codeStatus(exitNoRun)},
	} {
		if got := statusOf(&agentsandbox.Execution{Status: test.status, ReturnCode: test.code}); !errors.Is(got, test.want) {
			t.Errorf("%s, %d: %v, want %v", test.status, test.code, got, test.want)
		}
	}
	// Neither may look like success, nor like a status that the code chose.
	for _, e := range []agentsandbox.Execution{
		{Status: agentsandbox.StatusFailed, ReturnCode: 0},
		{Status: agentsandbox.StatusFailed, ReturnCode: 256},
		{Status: agentsandbox.StatusFailed, ReturnCode: -1},
		{Status: agentsandbox.StatusTimedOut, ReturnCode: 0},
	} {
		var code codeStatus
		if err := statusOf(&e); err == nil || errors.As(err, &code) {
			t.Errorf("%s, %d: %v", e.Status, e.ReturnCode, err)
		}
	}
}

func TestTimeoutMS(t *testing.T) {
	for d, want := range map[time.Duration]int64{0: 0, time.Microsecond: 1, 1500 * time.Millisecond: 1500, time.Hour: 3_600_000} {
		if got, err := milliseconds("--timeout", d); got != want || err != nil {
			t.Errorf("%s: %d, %v", d, got, err)
		}
	}
}
