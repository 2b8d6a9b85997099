package v1

import (
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
