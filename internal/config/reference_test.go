package config

import (
	"flag"
	"os"
	"testing"
)

var update = flag.Bool("update", false, "write the reference page instead of comparing it")

const referencePage = "../../docs/reference/config.md"

func TestReference(t *testing.T) {
	if *update {
		if err := os.WriteFile(referencePage, []byte(Reference()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	page, err := os.ReadFile(referencePage)
	if err != nil {
		t.Fatalf("%v: run \"make generate\"", err)
	}
	if string(page) != Reference() {
		t.Errorf("%s is stale: run \"make generate\"", referencePage)
	}
}
