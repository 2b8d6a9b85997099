package cli

import (
	"flag"
	"os"
	"regexp"
	"testing"

	"github.com/alecthomas/kong"
)

var update = flag.Bool("update", false, "write the reference page instead of comparing it")

const referencePage = "../../../docs/reference/cli.md"

func TestReference(t *testing.T) {
	want, err := Reference()
	if err != nil {
		t.Fatal(err)
	}
	if *update {
		if err := os.WriteFile(referencePage, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatalf("%v: run \"make generate\"", err)
	}
	if string(page) != want {
		t.Errorf("%s is stale: run \"make generate\"", referencePage)
	}
}

// Every verb must say what it does and teach with an example, and every flag
// and argument must say what it is for.
func TestHelpTeaches(t *testing.T) {
	var g grammar
	g.prepare()
	parser, err := newParser(&g, World{Stdout: os.Stdout, Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	err = kong.Visit(parser.Model, func(n kong.Visitable, next kong.Next) error {
		switch n := n.(type) {
		case *kong.Node:
			example := regexp.MustCompile(`(?m)^    .*` + regexp.QuoteMeta(n.FullPath()))
			if n.Help == "" || !example.MatchString(n.Detail) {
				t.Errorf("%s has no help, or no example of itself in it", n.FullPath())
			}
		case *kong.Value:
			if n.Help == "" {
				t.Errorf("%s has no help", n.Summary())
			}
		case *kong.Flag:
			if n.Help == "" {
				t.Errorf("--%s has no help", n.Name)
			}
		}
		return next(nil)
	})
	if err != nil {
		t.Fatal(err)
	}
}
