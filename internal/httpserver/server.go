// Package httpserver owns the connections of clients and the timeouts of the
// server that reads requests from them. It bounds how many connections there are,
// and whose idle ones are closed when there are too many.
//
// It knows no routes: a handler tells it which requests came with a key, with
// [MarkKnown]. It fails per connection: one that cannot be had is closed or told
// to come again, and the reason is counted.
package httpserver

import (
	"log/slog"
	"net/http"
	"time"
)

// New wraps a handler in a server that slow and idle clients cannot exhaust. It
// speaks HTTP/1.1. It has no deadline for whole requests or answers, because runs
// and transfers are long: the handler sets its own for bodies and for answers that
// nobody takes. It is to serve a [Listener]. The caller serves, and shuts down.
func New(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           whileServed(handler),
		ConnContext:       connContext,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
