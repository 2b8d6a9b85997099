package v1

import "github.com/agentsandbox/agentsandbox"

// pageInput is the input of every paged list.
type pageInput struct {
	Limit  int `query:"limit" default:"50" minimum:"1" maximum:"100" doc:"How many items to show."`
	Offset int `query:"offset" default:"0" minimum:"0" doc:"How many items to leave out, counted from the newest. Items that come or go between two pages shift it; a cursor stays at its place."`
	cursorInput
}

type cursorInput struct {
	Cursor string `query:"cursor" doc:"The next_cursor of the page before, in the same list with the same filter. Every item that exists all the while is shown exactly once. Not beside an offset."`
}

func (in pageInput) page() (agentsandbox.Page, error) {
	p := agentsandbox.Page{Limit: in.Limit, Offset: in.Offset, Cursor: in.Cursor}
	return p, p.Validate()
}

// metadataInput is the filter of lists whose items have metadata.
type metadataInput struct {
	Metadata map[string]string `query:"metadata" doc:"Show only those with each of these pairs among their metadata, as metadata[name]=value."`
}

// PageInfo is what every paged answer says of itself.
type PageInfo struct {
	Total  int `json:"total" doc:"How many items there are in all."`
	Limit  int `json:"limit" doc:"The limit that was applied."`
	Offset int `json:"offset" doc:"The offset that was applied."`
	// Never null: clients tell the end of a list by the empty text.
	NextCursor string `json:"next_cursor" doc:"What to give as cursor to see the next page; empty at the end of the list."`
}
