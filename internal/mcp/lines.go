package mcp

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"sync"
	"unicode/utf8"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// lines is a conversation over a pair of streams, a message on each line. The
// transport of the protocol's library ends with the first line that is no
// message, and the conversation's sandbox with it. Here such a line is answered
// with an error of JSON-RPC, and the conversation goes on.
type lines struct {
	in       io.ReadCloser
	received chan received

	mu  sync.Mutex // of out: answers are written while others are made
	out io.WriteCloser

	closing sync.Once
	closed  chan struct{}
	failed  error // of closing
}

type received struct {
	message jsonrpc.Message
	err     error
}

// Connect begins to read.
func (l *lines) Connect(context.Context) (sdk.Connection, error) {
	l.received, l.closed = make(chan received), make(chan struct{})
	go l.receive() // ends with the stream; a read that ignores Close may outlive the conversation
	return l, nil
}

// SessionID is empty: there is one conversation.
func (l *lines) SessionID() string { return "" }

// Read returns the next message. Its errors are of the stream alone.
func (l *lines) Read(ctx context.Context) (jsonrpc.Message, error) {
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-l.closed:
		return nil, io.EOF
	case r := <-l.received:
		return r.message, r.err
	}
}

// Write sends a message.
func (l *lines) Write(ctx context.Context, message jsonrpc.Message) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	data, err := jsonrpc.EncodeMessage(message)
	if err != nil {
		return err
	}
	return l.send(data)
}

func (l *lines) send(data []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	_, err := l.out.Write(append(data, '\n'))
	return err
}

// Close ends the conversation. It can be called twice.
func (l *lines) Close() error {
	l.closing.Do(func() {
		close(l.closed)
		l.failed = errors.Join(l.in.Close(), l.out.Close())
	})
	return l.failed
}

func (l *lines) receive() {
	in := bufio.NewReaderSize(l.in, 64<<10)
	for {
		line, whole, err := readLine(in)
		if len(line) > 0 || !whole {
			message, refused := parse(line, whole)
			for _, answer := range refused {
				if l.send(answer) != nil {
					return // nobody reads: the library learns so when it writes
				}
			}
			if message != nil && !l.deliver(received{message: message}) {
				return
			}
		}
		if err != nil {
			l.deliver(received{err: err})
			return
		}
	}
}

func (l *lines) deliver(r received) bool {
	select {
	case l.received <- r:
		return true
	case <-l.closed:
		return false
	}
}

// byteOrderMark stands before text that some programs write.
var byteOrderMark = []byte("\xef\xbb\xbf")

// readLine reads a line without its end, and what may stand around a message. Of
// a line that is too long nothing is kept, and whole is false. A line that the
// end of the stream cuts off comes together with the error.
func readLine(in *bufio.Reader) (line []byte, whole bool, err error) {
	whole = true
	for {
		part, err := in.ReadSlice('\n')
		if whole && len(line)+len(part) > maxRequestBytes {
			line, whole = nil, false
		}
		if whole {
			line = append(line, part...)
		}
		if !errors.Is(err, bufio.ErrBufferFull) {
			return bytes.TrimSpace(bytes.TrimPrefix(line, byteOrderMark)), whole, err
		}
	}
}

// parse returns the message of a line, or the answers that refuse it. What looks
// like an answer is never answered: two programs could go on for ever.
func parse(line []byte, whole bool) (message jsonrpc.Message, refused [][]byte) {
	var fields map[string]json.RawMessage
	switch {
	case !whole:
		return nil, refusal(nil, jsonrpc.CodeInvalidRequest, fmt.Sprintf("A message must have at most %d bytes.", maxRequestBytes))
	case !utf8.Valid(line):
		return nil, refusal(nil, jsonrpc.CodeParseError, "A message must be UTF-8.")
	case !json.Valid(line):
		return nil, refusal(nil, jsonrpc.CodeParseError, "A message must be JSON, whole on one line.")
	case line[0] == '[':
		return nil, refuseBatch(line)
	case line[0] != '{' || json.Unmarshal(line, &fields) != nil:
		return nil, refusal(nil, jsonrpc.CodeInvalidRequest, "A message must be an object.")
	}
	_, isResult := fields["result"]
	_, isError := fields["error"]
	method, isRequest := fields["method"]
	id, idErr := idOf(fields)
	if !isRequest && (isResult || isError) {
		if idErr == nil && id != nil {
			message, _ = jsonrpc.DecodeMessage(line)
		}
		return message, nil
	}
	switch {
	case idErr != nil:
		return nil, refusal(nil, jsonrpc.CodeInvalidRequest, idErr.Error())
	case string(fields["jsonrpc"]) != `"2.0"`:
		return nil, refusal(id, jsonrpc.CodeInvalidRequest, `A message must have "jsonrpc": "2.0".`)
	case !isRequest || method[0] != '"':
		return nil, refusal(id, jsonrpc.CodeInvalidRequest, "A request must have a method, which is a text.")
	}
	if params, ok := fields["params"]; ok && params[0] != '{' {
		return nil, refusal(id, jsonrpc.CodeInvalidRequest, "The params of a request must be an object.")
	}
	message, err := jsonrpc.DecodeMessage(line)
	if err != nil {
		return nil, refusal(id, jsonrpc.CodeInvalidRequest, "The message is none of JSON-RPC 2.0.")
	}
	return message, nil
}

// maxIntegerID is the largest integer that every reader of JSON tells apart.
const maxIntegerID = 1<<53 - 1

// idOf returns the id of a message as it was written; nil for none. An id that
// the library would round, or take for none, is an error: its answer would go to
// nobody, or to somebody else.
func idOf(fields map[string]json.RawMessage) (json.RawMessage, error) {
	id, ok := fields["id"]
	if !ok {
		return nil, nil
	}
	var value any
	if err := json.Unmarshal(id, &value); err != nil {
		return nil, errors.New("The id of a request must be a text or an integer.")
	}
	switch n := value.(type) {
	case string:
		return id, nil
	case float64:
		if n == math.Trunc(n) && math.Abs(n) <= maxIntegerID {
			return id, nil
		}
	}
	return nil, fmt.Errorf("The id of a request must be a text or an integer of at most %d, not null.", maxIntegerID)
}

// refuseBatch answers each request of a batch, so that none is waited for in
// vain. Batches were part of one version of the protocol, and of none after it.
func refuseBatch(line []byte) (refused [][]byte) {
	const sentence = "Batches are not part of the protocol: send each message on a line of its own."
	var batch []json.RawMessage
	_ = json.Unmarshal(line, &batch) // it is valid JSON, and an array
	for _, item := range batch {
		var fields map[string]json.RawMessage
		if json.Unmarshal(item, &fields) != nil {
			continue
		}
		id, err := idOf(fields)
		if _, isRequest := fields["method"]; isRequest && err == nil && id != nil {
			refused = append(refused, refusal(id, jsonrpc.CodeInvalidRequest, sentence)...)
		}
	}
	if len(refused) == 0 {
		refused = refusal(nil, jsonrpc.CodeInvalidRequest, sentence)
	}
	return refused
}

// refusal is an error of JSON-RPC. The library does not encode the id null, which
// says that the request could not be told.
func refusal(id json.RawMessage, code int, message string) [][]byte {
	if id == nil {
		id = json.RawMessage("null")
	}
	data, err := json.Marshal(map[string]any{
		"jsonrpc": "2.0", "id": id, "error": map[string]any{"code": code, "message": message},
	})
	if err != nil {
		panic(err) // it holds texts, and JSON that was read
	}
	return [][]byte{data}
}
