package agent

import (
	"context"
	"fmt"
	"io"

	"github.com/agentsandbox/agentsandbox/internal/guest"
	"github.com/agentsandbox/agentsandbox/internal/guest/wire"
)

// This file is what a run and the host say to each other: its start, its output,
// and its end. The run itself goes on without it.

// serveRun starts a run and follows it.
func (a *Agent) serveRun(ctx context.Context, s *wire.Stream, req *guest.RunRequest) error {
	if req == nil {
		return refuse(guest.FailInvalid, "a run needs its parameters")
	}
	code, err := recvCode(ctx, s, req.CodeBytes)
	if err != nil {
		return err
	}
	r, err := a.startRun(req, code)
	if err != nil {
		return err
	}
	return r.follow(ctx, s, 0)
}

// serveAttach follows a run that is under way, or over and not yet taken.
func (a *Agent) serveAttach(ctx context.Context, s *wire.Stream, req *guest.RunRequest) error {
	if req == nil {
		return refuse(guest.FailInvalid, "attach needs the id of a run")
	}
	a.mu.Lock()
	r := a.runs[req.ID]
	a.mu.Unlock()
	switch {
	case r == nil:
		return refuse(guest.FailNotExist, "there is no run %q", req.ID)
	case !r.log.has(req.After):
		return refuse(guest.FailNotExist, "run %q does not have what follows message %d", req.ID, req.After)
	}
	return r.follow(ctx, s, req.After)
}

func recvCode(ctx context.Context, s *wire.Stream, size int64) ([]byte, error) {
	if size < 0 || size > guest.MaxCode {
		return nil, refuse(guest.FailInvalid, "code of %d bytes; the limit is %d", size, guest.MaxCode)
	}
	code := make([]byte, 0, size)
	for int64(len(code)) < size {
		m, err := s.Recv(ctx)
		switch {
		case err != nil:
			return nil, fmt.Errorf("receive the code: %w", err)
		case m.Kind != guest.KindData || int64(len(code)+len(m.Payload)) > size:
			return nil, refuse(guest.FailInvalid, "a message of kind %d, %d bytes, where code was due", m.Kind, len(m.Payload))
		}
		code = append(code, m.Payload...)
	}
	return code, nil
}

// follow sends what the run produces after a number to one stream, and does what
// the host says on it. A run has one follower: a new one replaces the last. If the conversation
// breaks, the run goes on; if the host resets the stream, it ends.
func (r *run) follow(ctx context.Context, s *wire.Stream, after uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r.mu.Lock()
	if r.unlink != nil {
		r.unlink()
	}
	r.unlink = cancel
	r.mu.Unlock()

	sent := make(chan struct{})
	go func() {
		defer close(sent)
		r.send(ctx, s, after)
	}()
	err := r.readControl(ctx, s)
	cancel()
	<-sent
	return err
}

// send sends records until the result has been sent.
func (r *run) send(ctx context.Context, s *wire.Stream, after uint64) {
	for {
		rec, err := r.log.next(ctx, after)
		if err != nil {
			if ctx.Err() == nil {
				s.Reset(failureOf(err).Encode())
			}
			return
		}
		if s.Send(ctx, rec.kind, rec.payload) != nil {
			return // whoever receives on the stream sees why
		}
		after = rec.seq
		if rec.kind == guest.KindResult {
			s.End()
			return
		}
	}
}

// readControl acts on what the host sends, until that releases the run.
func (r *run) readControl(ctx context.Context, s *wire.Stream) error {
	for {
		m, err := s.Recv(ctx)
		if err != nil {
			if s.Broken() {
				return nil // the run goes on without this conversation
			}
			if ctx.Err() != nil {
				return refuse(guest.FailOther, "another stream follows the run now")
			}
			// The host has the result and has ended the stream, or has reset it.
			r.a.forget(r)
			if err == io.EOF {
				return nil
			}
			return err
		}
		switch m.Kind {
		case guest.KindKill:
			r.endBy(ending{byHost: true})
		case guest.KindAck:
			seq, _, err := guest.ParseSequence(m.Payload)
			if err == nil {
				err = r.log.ack(seq)
			}
			if err != nil {
				return err
			}
		default:
			return refuse(guest.FailInvalid, "a message of kind %d on the stream of a run", m.Kind)
		}
	}
}
