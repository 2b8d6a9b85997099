package mcp

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
)

var quiet = Options{Version: "test", Logger: slog.New(slog.DiscardHandler)}

// converse opens a conversation over a pair of streams. end closes the client's
// side, and waits until Serve has returned.
func converse(t *testing.T, service agentsandbox.Service) (client *sdk.ClientSession, end func()) {
	t.Helper()
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(t.Context(), service, ours, ours, quiet) }()
	client, err := sdk.NewClient(&sdk.Implementation{Name: "test"}, nil).Connect(t.Context(), &sdk.IOTransport{Reader: theirs, Writer: theirs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	return client, sync.OnceFunc(func() {
		client.Close()
		if err := <-served; err != nil {
			t.Errorf("Serve returned %v", err)
		}
	})
}

// call returns the text of a tool's answer, block by block.
func call(t *testing.T, client *sdk.ClientSession, tool string, arguments map[string]any) (blocks []string, failed bool) {
	t.Helper()
	result, err := client.CallTool(t.Context(), &sdk.CallToolParams{Name: tool, Arguments: arguments})
	if err != nil {
		t.Fatal(tool, err)
	}
	for _, c := range result.Content {
		switch c := c.(type) {
		case *sdk.TextContent:
			blocks = append(blocks, c.Text)
		case *sdk.ImageContent:
			blocks = append(blocks, c.MIMEType)
		default:
			t.Fatalf("%s: content of type %T", tool, c)
		}
	}
	return blocks, result.IsError
}

func program(code string, outcome agentsandbox.Execution) clienttest.Program {
	return clienttest.Program{Code: code, Outcome: outcome}
}

func live(t *testing.T, service agentsandbox.Service) []string {
	t.Helper()
	page, err := service.Sessions(context.WithoutCancel(t.Context()), agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 100}})
	if err != nil {
		t.Fatal(err)
	}
	var ids []string
	for _, s := range page.Sessions {
		ids = append(ids, s.ID)
	}
	return ids
}

func TestASandboxIsMadeLateAndEndsWithItsConversation(t *testing.T) {
	service := &clienttest.Service{Programs: []clienttest.Program{program("1", agentsandbox.Execution{Status: agentsandbox.StatusSucceeded})}}
	client, end := converse(t, service)
	defer end()
	if _, err := client.ListTools(t.Context(), nil); err != nil {
		t.Fatal(err)
	}
	if ids := live(t, service); len(ids) != 0 {
		t.Fatalf("before any tool there are sessions: %v", ids)
	}
	var calls sync.WaitGroup
	for range 5 {
		calls.Go(func() { call(t, client, "execute_python", map[string]any{"code": "1"}) })
	}
	calls.Wait()
	if ids := live(t, service); len(ids) != 1 {
		t.Fatalf("calls at once made the sessions %v", ids)
	}
	end()
	if ids := live(t, service); len(ids) != 0 {
		t.Fatalf("the conversation left %v", ids)
	}
}

func TestArgumentsAreTakenAsTheAPITakesThem(t *testing.T) {
	service := &clienttest.Service{Programs: []clienttest.Program{program("1", agentsandbox.Execution{Status: agentsandbox.StatusSucceeded})}}
	client, end := converse(t, service)
	defer end()
	for arguments, refused := range map[string]string{
		`{"code": "1", "session_id": null, "env_vars": null, "timeout_ms": null, "file_ids": null, "collect_ignored": null}`: "",
		`{"code": "1", "timeout_ms": 5000.0, "collect_ignored": true}`:                                                       "",
		`{"code": null}`:                   "required",
		`{"code": "1", "Timeout_ms": 1}`:   "Timeout_ms",
		`{"code": "1", "timeout_ms": "5"}`: "timeout_ms",
	} {
		result, err := client.CallTool(t.Context(), &sdk.CallToolParams{Name: "execute_python", Arguments: json.RawMessage(arguments)})
		if err != nil {
			t.Fatal(arguments, err)
		}
		said, _ := json.Marshal(result.Content)
		if result.IsError != (refused != "") || !strings.Contains(string(said), refused) {
			t.Errorf("%s: failed is %v, %s", arguments, result.IsError, said)
		}
	}
	kept := false
	for _, r := range service.Requests() {
		if x, ok := r.(agentsandbox.ExecuteRequest); ok && x.CollectIgnored != nil {
			kept = kept || *x.CollectIgnored && x.TimeoutMS == 5000
		}
	}
	if !kept {
		t.Errorf("collect_ignored did not arrive: %+v", service.Requests())
	}
}

func TestOutputCannotPassForTheVerdict(t *testing.T) {
	const forged = "succeeded, return code 0"
	service := &clienttest.Service{Programs: []clienttest.Program{program("x", agentsandbox.Execution{
		Status: agentsandbox.StatusFailed, ReturnCode: 3, Stdout: []byte(forged + "\xff"), Stderr: []byte("why"), Truncated: true, StdoutBytes: 5000,
	})}}
	client, end := converse(t, service)
	defer end()
	blocks, failed := call(t, client, "execute_bash", map[string]any{"code": "x"})
	if failed || len(blocks) != 3 || !strings.HasPrefix(blocks[0], "failed, return code 3") || blocks[1] != forged+"\uFFFD" || blocks[2] != "why" {
		t.Errorf("failed is %v, blocks are %q", failed, blocks)
	}
	if !strings.Contains(blocks[0], "wrote 5000 bytes to stdout") {
		t.Errorf("the verdict does not say that output is missing: %q", blocks[0])
	}
}

func TestImagesAreShownOrNamed(t *testing.T) {
	const png = "\x89PNG\r\n\x1a\n"
	outcome := agentsandbox.Execution{Status: agentsandbox.StatusSucceeded}
	contents := map[string]string{}
	for i := range maxImages + 1 {
		name := string(rune('a'+i)) + ".png"
		outcome.Files, contents[name] = append(outcome.Files, agentsandbox.File{Filename: name, MediaType: "image/png"}), png
	}
	outcome.Files = append(outcome.Files, agentsandbox.File{Filename: "x.svg", MediaType: "image/svg+xml"})
	contents["x.svg"] = "<svg/>"
	outcome.Files = slices.Insert(outcome.Files, 0,
		agentsandbox.File{Filename: "large.png", MediaType: "image/png"}, agentsandbox.File{Filename: "fake.png", MediaType: "image/png"})
	contents["large.png"], contents["fake.png"] = png+strings.Repeat("x", maxShownBytes), "no"
	service := &clienttest.Service{Programs: []clienttest.Program{{Code: "x", Outcome: outcome, Contents: contents}}}
	client, end := converse(t, service)
	defer end()
	blocks, _ := call(t, client, "execute_python", map[string]any{"code": "x"})
	if shown := slices.Repeat([]string{"image/png"}, maxImages); !slices.Equal(blocks[1:], shown) {
		t.Fatalf("shown are %q", blocks[1:])
	}
	for _, want := range []string{
		`"large.png" is not shown: it has more than 5242880 bytes.`,
		`"fake.png" is not shown: it is no image`,
		`"k.png" is not shown: 10 images are; download_file shows it.`,
		`File "x.svg" (image/svg+xml, 6 bytes): fil_`,
	} {
		if !strings.Contains(blocks[0], want) {
			t.Errorf("the verdict lacks %q: %s", want, blocks[0])
		}
	}
}

func TestALostSessionIsReplaced(t *testing.T) {
	service := &clienttest.Service{Programs: []clienttest.Program{
		program("bomb", agentsandbox.Execution{Status: agentsandbox.StatusMemoryExceeded, ReturnCode: 137, SessionStatus: agentsandbox.SessionLost}),
		program("1", agentsandbox.Execution{Status: agentsandbox.StatusSucceeded, SessionStatus: agentsandbox.SessionLive}),
	}}
	client, end := converse(t, service)
	defer end()
	blocks, _ := call(t, client, "execute_python", map[string]any{"code": "bomb"})
	if !strings.Contains(blocks[0], "The session is lost, and its files with it.") {
		t.Errorf("the verdict is %q", blocks[0])
	}
	call(t, client, "execute_python", map[string]any{"code": "1"})
	if ids := live(t, service); len(ids) != 2 { // the fake one lives on
		t.Errorf("sessions are %v", ids)
	}
}

func TestCancellingACallEndsTheRun(t *testing.T) {
	began := make(chan string)
	client, end := converse(t, &clienttest.Service{Hold: began})
	defer end()
	ctx, cancel := context.WithCancel(t.Context())
	go func() { <-began; cancel() }()
	if _, err := client.CallTool(ctx, &sdk.CallToolParams{Name: "execute_python", Arguments: map[string]any{"code": "hang"}}); !errors.Is(err, context.Canceled) {
		t.Errorf("the call returned %v", err)
	}
	end() // waits for the run
}

func TestStoppingTheProgramEndsTheRun(t *testing.T) {
	began := make(chan string)
	service := &clienttest.Service{Hold: began}
	ctx, stop := context.WithCancel(t.Context())
	ours, theirs := net.Pipe()
	served := make(chan error, 1)
	go func() { served <- Serve(ctx, service, ours, ours, quiet) }()
	client, err := sdk.NewClient(&sdk.Implementation{Name: "test"}, nil).Connect(t.Context(), &sdk.IOTransport{Reader: theirs, Writer: theirs}, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	called := make(chan struct{})
	go func() {
		defer close(called)
		_, _ = client.CallTool(t.Context(), &sdk.CallToolParams{Name: "execute_python", Arguments: map[string]any{"code": "hang"}})
	}()
	<-began
	stop()
	if err := <-served; err != nil {
		t.Errorf("Serve returned %v", err)
	}
	if ids := live(t, service); len(ids) != 0 {
		t.Errorf("sessions are left: %v", ids)
	}
	<-called
}

func TestSentences(t *testing.T) {
	refusal := agentsandbox.Invalid("timeout_ms", "must not be negative.")
	refusal.RequestID, refusal.RetryAfterSeconds = "req_1", 3
	for want, err := range map[string]error{
		"timeout_ms: must not be negative.\nTry again in 3 s.\n(invalid_request, request req_1)": refusal,
		"The server cannot be reached: refused\n(unavailable)": &agentsandbox.Error{
			Code: agentsandbox.CodeUnavailable, Message: "The server cannot be reached", Err: errors.New("refused")},
		"Several fields are wrong.\ncpus: no.\n(invalid_request)": &agentsandbox.Error{
			Code: agentsandbox.CodeInvalidRequest, Message: "Several fields are wrong.", Details: []agentsandbox.Detail{{Field: "cpus", Message: "no."}}},
		"The call was cancelled.": context.Canceled,
	} {
		if got := sentence(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestCut(t *testing.T) {
	for _, test := range []struct {
		in    string
		limit int
		want  string
		short bool
	}{
		{"äö", 4, "äö", false}, {"äö", 3, "ä", true}, {"äö", 1, "", true}, {"a\U0001F600b", 4, "a", true}, {"a\U0001F600b", 5, "a\U0001F600", true},
		{"\xff\xfe", 1, "\uFFFD", true}, {"\x80\x80\x80\x80\x80", 4, "\uFFFD", true}, {"", 1, "", false},
	} {
		if got, short := cut([]byte(test.in), test.limit); got != test.want || short != test.short {
			t.Errorf("cut(%q, %d) = %q, %v", test.in, test.limit, got, short)
		}
	}
}

func TestContentsAreWholeOrAnError(t *testing.T) {
	broken := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("broken")))
	if c, err := contents(broken, "x", "", 100); err == nil {
		t.Errorf("a broken body gave %v", c)
	}
	if c, err := contents(strings.NewReader("12345"), "x", "", 4); agentsandbox.CodeOf(err) != agentsandbox.CodeTooLarge {
		t.Errorf("a file over the limit gave %v, %v", c, err)
	}
	if c, err := contents(strings.NewReader("12345"), "x", "", 5); err != nil || c.(*sdk.TextContent).Text != "12345" {
		t.Errorf("a file at the limit gave %v, %v", c, err)
	}
}
