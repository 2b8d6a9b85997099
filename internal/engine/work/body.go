package work

import (
	"context"
	"fmt"
	"io"

	"github.com/agentsandbox/agentsandbox"
)

// sentBody is a body that a client sends, as slowly as it likes.
type sentBody struct {
	ctx  context.Context
	from io.Reader
}

// BodyWithin returns a body whose reads end with ctx, also one that waits, if the
// body can be interrupted. The caller calls stop when it reads no more.
func BodyWithin(ctx context.Context, body io.Reader) (within io.Reader, stop func() bool) {
	stop = func() bool { return true }
	if b, ok := body.(agentsandbox.Interrupter); ok {
		stop = context.AfterFunc(ctx, b.Interrupt)
	}
	return &sentBody{ctx, body}, stop
}

func (b *sentBody) Read(p []byte) (int, error) {
	if b.ctx.Err() != nil {
		return 0, fmt.Errorf("%w: %w", context.Canceled, context.Cause(b.ctx))
	}
	return b.from.Read(p)
}
