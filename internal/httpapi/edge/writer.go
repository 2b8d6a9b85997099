package edge

import (
	"net/http"
	"time"
)

// answerWriter counts what is answered, and gives up on a client that takes
// nothing for as long as stall.
type answerWriter struct {
	http.ResponseWriter
	control *http.ResponseController
	stall   time.Duration
	status  int // 0 until the header is out
	bytes   int64
	broken  bool // a write failed: the client is gone, or takes nothing
}

func newAnswerWriter(w http.ResponseWriter, stall time.Duration) *answerWriter {
	aw := &answerWriter{ResponseWriter: w, control: http.NewResponseController(w), stall: stall}
	// The connection may have served another request, whose deadline it keeps.
	_ = aw.control.SetWriteDeadline(time.Time{})
	return aw
}

func (w *answerWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *answerWriter) Write(p []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	written := 0
	for {
		// A client that takes a little has a new deadline for the rest.
		_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
		n, err := w.ResponseWriter.Write(p[written:min(len(p), written+writeBytes)])
		written += n
		w.bytes += int64(n)
		if w.broken = w.broken || err != nil; err != nil || written == len(p) {
			return written, err
		}
	}
}

// writeBytes is how much is written under one deadline.
const writeBytes = 64 << 10

// flush sends what was written, within the time that a client has.
func (w *answerWriter) flush() {
	_ = w.control.SetWriteDeadline(time.Now().Add(w.stall))
	w.broken = w.control.Flush() != nil || w.broken
}

// Unwrap lets http.ResponseController find the connection.
func (w *answerWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }
