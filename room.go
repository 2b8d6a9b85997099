package agentsandbox

import "context"

// OutputRoom waits for room in memory for so many bytes of output that an answer
// is to carry, and takes it until the request ends.
type OutputRoom func(ctx context.Context, bytes int) error

type outputRoomKey struct{}

// WithOutputRoom returns a context of whoever takes answers only when there is room
// for their output. A run whose output finds none has its record all the same.
func WithOutputRoom(ctx context.Context, take OutputRoom) context.Context {
	return context.WithValue(ctx, outputRoomKey{}, take)
}

// OutputRoomFrom returns what WithOutputRoom was given; nil for nothing.
func OutputRoomFrom(ctx context.Context) OutputRoom {
	take, _ := ctx.Value(outputRoomKey{}).(OutputRoom)
	return take
}
