// Package inside is the probe that runs in a sandbox, as a sub-command of the
// guest agent, with the rights of the code that the sandbox was made for. It
// tries what hostile code would try first, and prints what it saw as facts, one
// JSON object on each line.
//
// It judges nothing: package posture knows what is expected. It changes nothing
// that outlives it, and fails by printing the error of a system call as the
// value of the fact.
package inside

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"golang.org/x/sys/unix"
)

// Arguments of the probe beside the port.
const (
	attemptCommand   = "attempt"
	namespaceCommand = "namespace"
)

// Main runs the probe. The argument is the port of a listener on the host's
// loopback interface; the other forms are the probe's own children.
func Main(args []string, stdout io.Writer) error {
	switch {
	case len(args) == 2 && args[0] == attemptCommand:
		return attemptOne(args[1], stdout)
	case len(args) == 1 && args[0] == namespaceCommand:
		return inNewNamespaces(stdout)
	case len(args) == 1:
		return probe(args[0], stdout)
	}
	return errors.New("usage: probe PORT")
}

// report collects facts.
type report struct {
	enc *json.Encoder
	err error
}

func (r *report) add(name, value string) {
	if r.err != nil {
		return
	}
	value = strings.ToValidUTF8(strings.ReplaceAll(strings.TrimSpace(value), "\n", " / "), "\uFFFD")
	if value == "" {
		value = "none"
	}
	r.err = r.enc.Encode(struct {
		Name  string `json:"name"`
		Value string `json:"value"`
	}{name, value})
}

func (r *report) addf(name, format string, args ...any) { r.add(name, fmt.Sprintf(format, args...)) }

func probe(port string, stdout io.Writer) error {
	// First, before the program itself opens anything.
	descriptors := ownDescriptors()
	out := bufio.NewWriter(stdout)
	r := &report{enc: json.NewEncoder(out)}
	r.add("descriptors", descriptors)
	identity(r)
	kernel(r)
	mounts(r)
	limits(r)
	processes(r)
	files(r)
	attempts(r)
	network(r, port)
	if r.err != nil {
		return r.err
	}
	return out.Flush()
}

// failure names the error of a system call; "allowed" for none.
func failure(err error) string {
	var errno unix.Errno
	switch {
	case err == nil:
		return "allowed"
	case errors.As(err, &errno):
		if name := unix.ErrnoName(errno); name != "" {
			return name
		}
		return fmt.Sprintf("errno %d", int(errno))
	}
	return err.Error()
}
