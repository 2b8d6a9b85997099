package v1

import (
	"bytes"
	"context"
	"io"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// maxReaders is how many records are read at once.
const maxReaders = 4

// record reads a record with its output, and counts it.
func (a *api) record(c *edge.Call, id string) (*agentsandbox.Execution, error) {
	return a.read(c, id, func(*agentsandbox.Execution) bool { return true })
}

// read reads a record with its output, and counts what is to stay. As many at a time
// are read before they are counted as there are places, so that what is not counted
// is bounded too.
func (a *api) read(c *edge.Call, id string, stays func(*agentsandbox.Execution) bool) (*agentsandbox.Execution, error) {
	select {
	case a.readers <- struct{}{}:
	case <-c.Context().Done():
		return nil, c.Context().Err()
	}
	defer func() { <-a.readers }()
	e, err := a.service.Execution(c.Context(), id)
	if err != nil || !stays(e) {
		return e, err
	}
	return e, c.Occupy(len(e.Stdout) + len(e.Stderr) + len(e.Code) + nameBytes(e.Files))
}

// openOutput opens what was kept of a stream, and counts what of it is in memory.
func (a *api) openOutput(c *edge.Call, id string, stream agentsandbox.Stream) (output io.ReadSeekCloser, size int64, err error) {
	select {
	case a.readers <- struct{}{}:
	case <-c.Context().Done():
		return nil, 0, c.Context().Err()
	}
	defer func() { <-a.readers }()
	output, held, err := a.output(c.Context(), id, stream)
	if err != nil {
		return nil, 0, err
	}
	if err = c.Occupy(held); err == nil {
		size, err = output.Seek(0, io.SeekEnd)
	}
	if err == nil {
		_, err = output.Seek(0, io.SeekStart)
	}
	if err != nil {
		_ = output.Close() // nothing was written to it
		return nil, 0, err
	}
	return output, size, nil
}

// outputOfRecords reads output from the records of a Service.
func outputOfRecords(service agentsandbox.Service) Output {
	return func(ctx context.Context, id string, stream agentsandbox.Stream) (io.ReadSeekCloser, int, error) {
		e, err := service.Execution(ctx, id)
		switch {
		case err != nil:
			return nil, 0, err
		case e.OutputDropped:
			return nil, 0, agentsandbox.OutputNotKept(id)
		}
		kept := e.Stdout
		if stream == agentsandbox.Stderr {
			kept = e.Stderr
		}
		return inMemory{bytes.NewReader(kept)}, len(kept), nil
	}
}

type inMemory struct{ *bytes.Reader }

func (inMemory) Close() error { return nil }

// records is record for a list.
func (a *api) records(c *edge.Call, filter agentsandbox.ExecutionFilter) (*agentsandbox.ExecutionPage, error) {
	select {
	case a.readers <- struct{}{}:
	case <-c.Context().Done():
		return nil, c.Context().Err()
	}
	defer func() { <-a.readers }()
	page, err := a.service.Executions(c.Context(), filter)
	if err != nil {
		return nil, err
	}
	n := 0
	for i := range page.Executions {
		n += nameBytes(page.Executions[i].Files)
	}
	return page, c.OccupyAnswer(n)
}

func nameBytes(files []agentsandbox.File) (n int) {
	for i := range files {
		n += edge.TextBytes(files[i].Filename) + edge.TextBytes(files[i].Path)
	}
	return n
}
