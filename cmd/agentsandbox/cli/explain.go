package cli

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"syscall"

	"github.com/agentsandbox/agentsandbox"
)

// toolError is a program that failed, with what it printed. Of any other error, a
// line break is part of a name, and is shown as an escape.
type toolError interface {
	error
	Lines() []string
}

// explain turns an error into lines for people: what went wrong, and the remedy
// where the error itself does not say it.
func explain(err error) []string {
	if joined, ok := err.(interface{ Unwrap() []error }); ok {
		var lines []string
		for _, one := range joined.Unwrap() {
			lines = append(lines, explain(one)...)
		}
		return lines
	}
	var e *agentsandbox.Error
	var tool toolError
	switch {
	case errors.Is(err, context.Canceled):
		return []string{"interrupted"}
	case errors.As(err, &tool):
		lines := slices.Clone(tool.Lines())
		lines[0] = strings.TrimSuffix(err.Error(), tool.Error()) + lines[0]
		return lines
	case errors.Is(err, syscall.ECONNREFUSED):
		return []string{
			err.Error(),
			`Start a server on this machine with "agentsandbox serve", or name another one with --server or ` + serverEnv + `.`,
		}
	case errors.As(err, &e) && e.Err == nil:
		return explainRefusal(err, e)
	}
	return []string{err.Error()}
}

// explainRefusal shows what the server said, and the fields that it names if
// the sentence does not.
func explainRefusal(err error, e *agentsandbox.Error) []string {
	lines := []string{err.Error()}
	for _, d := range e.Details {
		if whole := d.Field + ": " + d.Message; whole != e.Message {
			lines = append(lines, "  "+whole)
		}
	}
	if e.RetryAfterSeconds > 0 {
		lines = append(lines, fmt.Sprintf("  Try again in %d s.", e.RetryAfterSeconds))
	}
	if e.RequestID != "" {
		lines = append(lines, "  Request "+e.RequestID+".")
	}
	return lines
}
