package supply

import (
	"errors"
	"strconv"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Explain turns an error of a sandbox at a path into one for the caller. What it does not
// know stays as it is.
func Explain(err error, p string) error {
	code, message := agentsandbox.Code(""), ""
	switch {
	case err == nil:
		return nil
	case errors.Is(err, runtime.ErrSandboxLost):
		code, message = agentsandbox.CodeUnavailable, "The sandbox died. Create a new session."
	case errors.Is(err, runtime.ErrNotExist):
		code, message = agentsandbox.CodePathNotFound, "Nothing is at "+strconv.Quote(p)+" in the sandbox."
	case errors.Is(err, runtime.ErrPermission):
		code, message = agentsandbox.CodeForbidden, "The user of the sandbox has no right to "+strconv.Quote(p)+"."
	case errors.Is(err, runtime.ErrSystemPath):
		code, message = agentsandbox.CodeForbidden, strconv.Quote(p)+" leads into /proc, /sys or /dev, which are the sandbox's kernel and no files of the session. Run code to look at them."
	case errors.Is(err, runtime.ErrNotRegular):
		code, message = agentsandbox.CodeConflict, strconv.Quote(p)+" is not of the kind that this needs: a link, a directory, a FIFO, a socket or a device is never followed or read."
	case errors.Is(err, runtime.ErrNoSpace):
		code, message = agentsandbox.CodeStorageFull, "The disk of the sandbox is full. Remove files in it, or use a new session."
	case errors.Is(err, runtime.ErrInvalid):
		code, message = agentsandbox.CodeInvalidRequest, "path: "+strconv.Quote(p)+" cannot be used."
	default:
		return err
	}
	told := &agentsandbox.Error{Code: code, Message: message, Err: err}
	if code == agentsandbox.CodeInvalidRequest {
		told.Details = []agentsandbox.Detail{{Field: "path", Message: "cannot be used."}}
	}
	return told
}
