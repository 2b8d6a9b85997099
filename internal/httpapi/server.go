package httpapi

import (
	"log/slog"
	"net/http"
	"time"
)

// NewServer wraps a handler of New in a server that slow and idle clients
// cannot exhaust. It speaks HTTP/1.1. It has no deadline for whole requests or
// answers, because runs and transfers are long: the handler sets its own for
// bodies and for answers that nobody takes. It is to serve Connections. The
// caller serves, and shuts down.
func NewServer(handler http.Handler, log *slog.Logger) *http.Server {
	return &http.Server{
		Handler:           whileServed(handler),
		ConnContext:       connContext,
		ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
}
