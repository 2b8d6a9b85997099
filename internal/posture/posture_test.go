package posture

import (
	"slices"
	"strings"
	"testing"
)

var grant = Grant{MemoryBytes: 1 << 30, MilliCPUs: 1500, Tasks: 7, CPUs: 2, DiskBytes: 5, Network: "off"}

func TestCompare(t *testing.T) {
	const list = "# comment\n\ninside uid = 1000\ninside memory = {memory_bytes}\nhost cpus = {milli_cpus} {tasks} {cpus} {disk_bytes}\ninside gone = x\n" +
		"[network off]\ninside routes = 0\n[network public]\ninside routes = 1\n"
	rows, err := Compare(list, grant, Seen{
		Inside: []Fact{{"uid", "0"}, {"memory", "1073741824"}, {"routes", "0"}, {"new", "y"}},
		Host:   []Fact{{"cpus", "1500 7 2 5"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	want := []Row{
		{Inside, "uid", "0", "1000", false},
		{Inside, "memory", "1073741824", "1073741824", true},
		{Host, "cpus", "1500 7 2 5", "1500 7 2 5", true},
		{Inside, "gone", Missing, "x", false},
		{Inside, "routes", "0", "0", true},
		{Inside, "new", "y", Unlisted, false},
	}
	if !slices.Equal(rows, want) {
		t.Errorf("got %+v", rows)
	}
}

// A fact cannot pretend to be a line that was not seen.
func TestMissingIsNeverRight(t *testing.T) {
	rows, err := Compare("inside a = "+Missing+"\n", grant, Seen{})
	if err != nil || len(rows) != 1 || rows[0].OK {
		t.Errorf("%+v, %v", rows, err)
	}
}

func TestListsThatAreWrong(t *testing.T) {
	for _, list := range []string{"uid = 1", "inside uid", "outside uid = 1", "inside a = 1\ninside a = 2"} {
		if _, err := Compare(list, grant, Seen{}); err == nil {
			t.Errorf("%q is taken", list)
		}
	}
	if _, err := Compare("", grant, Seen{Inside: []Fact{{"a", "1"}, {"a", "2"}}}); err == nil {
		t.Error("a fact may be stated twice")
	}
	if _, err := Compare(List(), grant, Seen{}); err != nil {
		t.Errorf("the list of the program: %v", err)
	}
}

func TestDecodeTrustsNothing(t *testing.T) {
	good, err := decode([]byte(`{"name":"uid","value":"1000"}` + "\n" + `{"name":"b","value":"=x"}`))
	if err != nil || len(good) != 2 {
		t.Errorf("%v, %v", good, err)
	}
	for _, bad := range []string{
		"", "uid 1000", `{"name":"","value":"x"}`, `{"name":"a = b","value":"x"}`, `{"name":"a","value":"x\ny"}`,
		`{"name":"a","value":"x","ok":true}`, `[1]`, strings.Repeat(`{"name":"a","value":"x"}`, maxFacts+1),
	} {
		if facts, err := decode([]byte(bad)); err == nil {
			t.Errorf("%.60q became %v", bad, facts)
		}
	}
}

func TestHostValuesAreFound(t *testing.T) {
	h := thisHost{"hostname": "box", "boot id": "b-1", "kernel version": "Linux 6"}
	got := h.compare([]Fact{{"hostname", "box"}, {"boot id", "b-2"}, {"machine id", "none"}, {"kernel version", "Linux 4"}, {"uid", "1000"}})
	want := []Fact{{"hostname", "THE HOST'S"}, {"boot id", "not the host's"}, {"machine id", "none"}, {"kernel version", "Linux 4"}, {"uid", "1000"}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v", got)
	}
}

func TestDifference(t *testing.T) {
	a := []Fact{{"uid", "1000"}, {"environment", "x"}, {"z", "1"}}
	if got := difference(a, []Fact{{"uid", "1000"}, {"environment", "y"}, {"z", "1"}}); got != "the same" {
		t.Error(got)
	}
	if got := difference(a, []Fact{{"uid", "0"}, {"environment", "y"}}); got != "uid: 0; z: missing" {
		t.Error(got)
	}
}
