package agent

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// refusal is an error with the code that the host is to see.
type refusal struct {
	code guest.FailureCode
	text string
}

func (r *refusal) Error() string { return r.text }

func refuse(code guest.FailureCode, format string, args ...any) error {
	return &refusal{code: code, text: fmt.Sprintf(format, args...)}
}

var errnoCodes = map[unix.Errno]guest.FailureCode{
	unix.ENOENT:       guest.FailNotExist,
	unix.ENOTDIR:      guest.FailNotExist,
	unix.EACCES:       guest.FailPermission,
	unix.EPERM:        guest.FailPermission,
	unix.EROFS:        guest.FailPermission,
	unix.EBUSY:        guest.FailPermission,
	unix.EISDIR:       guest.FailNotRegular,
	unix.ELOOP:        guest.FailNotRegular,
	unix.ENXIO:        guest.FailNotRegular,
	unix.ENOSPC:       guest.FailNoSpace,
	unix.EDQUOT:       guest.FailNoSpace,
	unix.ENAMETOOLONG: guest.FailInvalid,
	unix.EINVAL:       guest.FailInvalid,
}

// failureOf says an error in the words of the protocol.
func failureOf(err error) guest.Failure {
	var r *refusal
	if errors.As(err, &r) {
		return guest.Failure{Code: r.code, Text: r.text}
	}
	var broken *guest.BreachError
	if errors.As(err, &broken) {
		return guest.Failure{Code: guest.FailInvalid, Text: err.Error()}
	}
	if errors.Is(err, context.Canceled) {
		return guest.Failure{Code: guest.FailOther, Text: "the request was given up"}
	}
	var errno unix.Errno
	if errors.As(err, &errno) {
		if code, ok := errnoCodes[errno]; ok {
			return guest.Failure{Code: code, Text: err.Error()}
		}
	}
	return guest.Failure{Code: guest.FailOther, Text: err.Error()}
}

// notStarted says why a process could not be started, with what to do about it.
func notStarted(what string, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.EAGAIN):
		hint = ": the sandbox's limit of processes is reached; end some of them"
	case errors.Is(err, unix.ENOMEM):
		hint = ": the sandbox has no memory left"
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EDQUOT):
		hint = ": the sandbox's file system is full; remove files"
	case errors.Is(err, unix.E2BIG):
		hint = ": the environment variables are larger than the system takes"
	}
	return refuse(guest.FailNotStarted, "%s: %v%s", what, err, hint)
}
