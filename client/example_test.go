package client_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"log/slog"
	"net/http/httptest"
	"os"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
	"github.com/agentsandbox/agentsandbox/client/clienttest"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/v1"
)

// newExampleClient makes a client of a server that knows the programs of the
// examples. Yours is client.New(os.Getenv("AGENTSANDBOX_BASE_URL"), key).
func newExampleClient() (c *client.Client, stop func()) {
	done := agentsandbox.Execution{Status: agentsandbox.StatusSucceeded}
	hello, plot, endless := done, done, done
	hello.Stdout = []byte("Hello, World!\n")
	plot.Files = []agentsandbox.File{{Filename: "plot.svg"}}
	endless.Status, endless.ReturnCode = agentsandbox.StatusTimedOut, agentsandbox.ReturnCodeTimedOut
	api, err := v1.New(v1.Options{Service: &clienttest.Service{Programs: []clienttest.Program{
		{Code: "print('Hello, World!')", Outcome: hello},
		{Code: "plot()", Outcome: plot, Contents: map[string]string{"plot.svg": "<svg/>"}},
		{Code: "while True: pass", Outcome: endless},
	}}, Ready: func() error { return nil }})
	if err != nil {
		log.Fatal(err)
	}
	handler, err := edge.New(edge.Options{
		Idempotency: new(clienttest.Keys),
		Authenticate: func(context.Context, string) (agentsandbox.Principal, error) {
			return agentsandbox.Principal{KeyID: "key_1", Tenant: "main", Scopes: agentsandbox.Scopes}, nil
		},
		Logger: slog.New(slog.DiscardHandler),
	}, api)
	if err != nil {
		log.Fatal(err)
	}
	server := httptest.NewServer(handler)
	if c, err = client.New(server.URL, "key"); err != nil {
		log.Fatal(err)
	}
	return c, server.Close
}

func Example() {
	c, stop := newExampleClient() // client.New(client.DefaultBaseURL, os.Getenv("AGENTSANDBOX_API_KEY"))
	defer stop()
	e, err := c.Execute(context.Background(), agentsandbox.ExecuteRequest{Code: "print('Hello, World!')"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("%s, return code %d: %s", e.Status, e.ReturnCode, e.Stdout)
	// Output: succeeded, return code 0: Hello, World!
}

// What the code does wrong is a result. An error is of the request or the service.
func ExampleClient_Execute() {
	c, stop := newExampleClient()
	defer stop()
	e, err := c.Execute(context.Background(), agentsandbox.ExecuteRequest{Code: "while True: pass", TimeoutMS: 500})
	fmt.Println(e.Status, e.ReturnCode, err)

	_, err = c.Execute(context.Background(), agentsandbox.ExecuteRequest{Code: "1", SessionID: "ses_gone"})
	fmt.Println(errors.Is(err, agentsandbox.CodeSessionNotFound))

	_, err = c.Execute(context.Background(), agentsandbox.ExecuteRequest{Code: "1", TimeoutMS: -1})
	var refusal *agentsandbox.Error
	if errors.As(err, &refusal) {
		fmt.Println(refusal.Code, refusal.Details[0].Field)
	}
	// Output:
	// timed_out 124 <nil>
	// true
	// invalid_request timeout_ms
}

func ExampleClient_CreateSession() {
	c, stop := newExampleClient()
	defer stop()
	ctx := context.Background()
	session, err := c.CreateSession(ctx, agentsandbox.SessionRequest{MemoryMB: 512, Metadata: map[string]string{"user": "ada"}})
	if err != nil {
		log.Fatal(err)
	}
	defer c.DeleteSession(ctx, session.ID)
	if _, err := c.WritePath(ctx, session.ID, "/workspace/in.csv", strings.NewReader("a,b\n1,2\n")); err != nil {
		log.Fatal(err)
	}
	for entry, err := range c.AllPaths(ctx, session.ID, agentsandbox.Workspace) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(entry.Path, entry.SizeBytes)
	}
	// Output: /workspace/in.csv 8
}

// Files that a run leaves stay after its sandbox is gone.
func ExampleClient_DownloadFile() {
	c, stop := newExampleClient()
	defer stop()
	ctx := context.Background()
	e, err := c.Execute(ctx, agentsandbox.ExecuteRequest{Code: "plot()"})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range e.Files {
		fmt.Print(f.Filename, ": ")
		if _, err := c.DownloadFile(ctx, f.ID, os.Stdout); err != nil {
			log.Fatal(err)
		}
	}
	// Output: plot.svg: <svg/>
}

func ExampleClient_AllFiles() {
	c, stop := newExampleClient()
	defer stop()
	ctx := context.Background()
	for _, name := range []string{"a.csv", "b.csv", "c.csv"} {
		if _, err := c.UploadFile(ctx, agentsandbox.FileUpload{Filename: name}, strings.NewReader(name)); err != nil {
			log.Fatal(err)
		}
	}
	for f, err := range c.AllFiles(ctx) {
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(f.Filename)
		if f.Filename == "b.csv" {
			break
		}
	}
	// Output:
	// c.csv
	// b.csv
}

// A run that may be asked for again, by this process or by its successor.
func ExampleWithIdempotencyKey() {
	c, stop := newExampleClient()
	defer stop()
	ctx := client.WithIdempotencyKey(context.Background(), "order-4711")
	first, err := c.Execute(ctx, agentsandbox.ExecuteRequest{Code: "print('Hello, World!')"})
	if err != nil {
		log.Fatal(err)
	}
	again, err := c.Execute(ctx, agentsandbox.ExecuteRequest{Code: "print('Hello, World!')"})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(first.ID == again.ID)
	// Output: true
}
