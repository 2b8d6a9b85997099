package run

import (
	"fmt"
	"strings"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/eventlog"
)

// Many clients show the standard error of a run and nothing else of its outcome.
// So what they would miss stands there in last lines, each of which begins with
// "agentsandbox: ": what is lost, and how the run ended where the code had no say
// in it. A run that lost nothing and ended by itself has none.

// refusalsTold is how many refusals of the network a line has room for.
const refusalsTold = 3

// remarks are the last lines of a run's standard error; how it ended is the very
// last one.
func remarks(rec *agentsandbox.Execution, out eventlog.Totals, cleared, ending string) []string {
	lines := []string{cleared, cutNote(rec, out), rec.LostText()}
	if rec.Status != agentsandbox.StatusSucceeded {
		lines = append(lines, refusedNote(rec))
	}
	if rec.Error != "" && rec.Error != ending {
		lines = append(lines, rec.Error)
	}
	if ending == "" && rec.Status == agentsandbox.StatusFailed && rec.Signal != "" {
		ending = signalNote(rec.Signal)
	}
	return append(lines, ending)
}

// cutNote says how much of the output is not kept. It counts what the code wrote,
// so it comes before any line is added.
func cutNote(rec *agentsandbox.Execution, out eventlog.Totals) string {
	if !rec.Truncated {
		return ""
	}
	var cut []string
	for _, s := range []struct {
		name string
		eventlog.Total
	}{{"standard output", out.Stdout}, {"standard error", out.Stderr}} {
		if s.Kept < s.Written {
			cut = append(cut, fmt.Sprintf("the first %d of %d bytes of %s are kept", s.Kept, s.Written, s.name))
		}
	}
	if len(cut) == 0 {
		return "the output may lack its end"
	}
	return "the output was cut: " + strings.Join(cut, ", ")
}

// droppedNote stands in for all that a record has lost. Nothing of it is stored.
func droppedNote(rec *agentsandbox.Execution) string {
	return fmt.Sprintf("the code and the output of this run (%d and %d bytes) are not kept, for want of room in the tenant's quota or on the disk", rec.StdoutBytes, rec.StderrBytes)
}

func refusedNote(rec *agentsandbox.Execution) string {
	if len(rec.NetworkRefused) == 0 {
		return ""
	}
	var told []string
	for _, r := range rec.NetworkRefused[:min(len(rec.NetworkRefused), refusalsTold)] {
		to := r.Host
		if r.Port != 0 {
			to += fmt.Sprintf(" port %d", r.Port)
		}
		told = append(told, fmt.Sprintf("%s (%s)", to, r.Rule))
	}
	line := "the network policy refused " + strings.Join(told, ", ")
	if more := len(rec.NetworkRefused) - len(told); more > 0 || rec.NetworkRefusedOmitted > 0 {
		line += " and more, see network_refused"
	}
	return line
}

// signalWords say what a signal stands for that ends a program.
var signalWords = map[string]string{
	"SIGSEGV": "a segmentation fault: the program used memory that is not its own",
	"SIGBUS":  "a bus error: as a rule, memory of a mapped file for which there is no room or no file any more",
	"SIGABRT": "the program aborted itself",
	"SIGILL":  "an instruction that the processor does not have",
	"SIGFPE":  "an arithmetic error",
	"SIGKILL": "sent by a process of the sandbox",
	"SIGTERM": "sent by a process of the sandbox",
	"SIGPIPE": "the program wrote to a pipe that nobody reads",
	"SIGXFSZ": "a file larger than is allowed",
	"SIGSYS":  "a system call that is not allowed",
}

func signalNote(signal string) string {
	if words := signalWords[signal]; words != "" {
		return fmt.Sprintf("ended by %s, %s", signal, words)
	}
	return "ended by " + signal
}

// notes are last lines of standard error, to be added to what the code wrote. Each is
// on a line of its own. They are not part of what the code wrote, and count neither in
// StderrBytes nor as truncation.
func notes(stderr eventlog.Total, texts ...string) (lines []byte) {
	for _, text := range texts {
		if text == "" {
			continue
		}
		if len(lines) == 0 && stderr.Kept > 0 && stderr.Last != '\n' {
			lines = append(lines, '\n')
		}
		lines = append(lines, "agentsandbox: "+strings.ReplaceAll(text, "\n", " ")+"\n"...)
	}
	return lines
}
