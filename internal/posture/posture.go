// Package posture checks what stands between code in a sandbox and the host, by
// looking from both sides of a real one: a probe of ours runs in it as its user
// (package inside, which is part of the guest agent), and the host is asked what
// the sandbox's process may do. What is seen is compared, line by line, with a
// list that is part of the program (expected.txt).
//
// The package owns the list and the comparison. It knows nothing of how a
// sandbox is made, nor of gVisor; what the host sees is given to it. Everything
// that comes out of the sandbox is taken for hostile: a probe that answers
// something else than facts is an error, and a fact is only text that is
// compared. A line that is missing, and one that nobody expected, are not ok
// either: the list is the whole truth, or the check fails.
package posture

import (
	_ "embed"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// Sides from which a fact is seen.
const (
	Inside = "inside"
	Host   = "host"
)

// Fact is one thing that was seen.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

// Row is a fact beside what it should be.
type Row struct {
	Side     string `json:"side"` // inside, host
	Name     string `json:"name"`
	Value    string `json:"value"`
	Expected string `json:"expected"`
	OK       bool   `json:"ok"`
}

// Values of rows that one side lacks.
const (
	// Missing is the value of a line of the list that was not seen.
	Missing = "(not seen)"
	// Unlisted is what is expected of a fact that is not in the list.
	Unlisted = "(not in the list)"
)

// Grant is what the sandbox was given, as far as the list depends on it.
type Grant struct {
	MemoryBytes int64
	// WallBytes is where the host stops the sandbox, above MemoryBytes.
	WallBytes int64
	MilliCPUs int64
	Tasks     int64
	CPUs      int // that programs see
	DiskBytes int64
	// Network is the mode of the sandbox's network, such as "off": the name of
	// the section of the list that holds beside the common lines.
	Network string
}

func (g Grant) variables() map[string]string {
	number := func(n int64) string { return strconv.FormatInt(n, 10) }
	return map[string]string{
		"{memory_bytes}": number(g.MemoryBytes),
		"{shared_bytes}": number(g.MemoryBytes / 2),
		"{wall_bytes}":   number(g.WallBytes),
		"{milli_cpus}":   number(g.MilliCPUs),
		"{tasks}":        number(g.Tasks),
		"{cpus}":         strconv.Itoa(g.CPUs),
		"{disk_bytes}":   number(g.DiskBytes),
	}
}

//go:embed expected.txt
var list string

// List returns the text of the list of what is expected.
func List() string { return list }

// Seen are the facts of one look at a sandbox, by side.
type Seen struct {
	Inside, Host []Fact
}

// Compare puts what was seen beside what a list expects, in the order of the
// list, the unexpected last.
func Compare(list string, g Grant, seen Seen) ([]Row, error) {
	expected, err := parse(list, g)
	if err != nil {
		return nil, err
	}
	facts := map[key]string{}
	for side, all := range map[string][]Fact{Inside: seen.Inside, Host: seen.Host} {
		for _, f := range all {
			k := key{side, f.Name}
			if _, twice := facts[k]; twice {
				return nil, fmt.Errorf("the fact %q was seen twice from the side %q", f.Name, side)
			}
			facts[k] = f.Value
		}
	}
	var rows []Row
	for _, line := range expected {
		value, ok := facts[line.key]
		delete(facts, line.key)
		if !ok {
			value = Missing
		}
		rows = append(rows, Row{Side: line.side, Name: line.name, Value: value, Expected: line.value, OK: ok && value == line.value})
	}
	for _, k := range slices.SortedFunc(maps.Keys(facts), func(a, b key) int {
		return strings.Compare(a.side+"\x00"+a.name, b.side+"\x00"+b.name)
	}) {
		rows = append(rows, Row{Side: k.side, Name: k.name, Value: facts[k], Expected: Unlisted})
	}
	return rows, nil
}

type key struct{ side, name string }

type line struct {
	key
	value string
}

// parse reads a list: "side name = value" on each line, sections of a network
// mode under "[network MODE]", comments after "#" at the start of a line.
func parse(list string, g Grant) ([]line, error) {
	var lines []line
	variables := g.variables()
	known := map[key]bool{}
	section := ""
	for i, text := range strings.Split(list, "\n") {
		if text == "" || strings.HasPrefix(text, "#") {
			continue
		}
		if mode, ok := strings.CutPrefix(text, "[network "); ok {
			section = strings.TrimSuffix(mode, "]")
			continue
		}
		name, value, ok := strings.Cut(text, " = ")
		side, name, named := strings.Cut(name, " ")
		if !ok || !named || side != Inside && side != Host {
			return nil, fmt.Errorf("line %d of the list is not of the form: SIDE NAME = VALUE", i+1)
		}
		if section != "" && section != g.Network {
			continue
		}
		k := key{side, name}
		if known[k] {
			return nil, fmt.Errorf("line %d of the list: %s %s is there twice", i+1, side, name)
		}
		known[k] = true
		for variable, with := range variables {
			value = strings.ReplaceAll(value, variable, with)
		}
		lines = append(lines, line{k, value})
	}
	return lines, nil
}
