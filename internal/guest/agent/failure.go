package agent

import (
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox/internal/guest"
)

// refuse makes an error with the code that the host is to see.
func refuse(code guest.FailureCode, format string, args ...any) error {
	return guest.Failure{Code: code, Text: fmt.Sprintf(format, args...)}
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
	var f guest.Failure
	if errors.As(err, &f) {
		return f
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
