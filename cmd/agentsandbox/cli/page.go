package cli

import "github.com/agentsandbox/agentsandbox"

// pageFlags choose a part of a list.
type pageFlags struct {
	Limit  int    `default:"50" placeholder:"N" help:"How many to show, from 1 to 100 (default ${default})."`
	Cursor string `placeholder:"CURSOR" help:"Show what follows an earlier page, whose cursor this is."`
	Offset int    `default:"0" placeholder:"N" help:"How many of the newest to leave out (default ${default}). What comes or goes between two pages shifts it; a cursor stays at its place."`
}

func (f pageFlags) page() (agentsandbox.Page, error) {
	p := agentsandbox.Page{Limit: f.Limit, Offset: f.Offset, Cursor: f.Cursor}
	return p, p.Validate()
}

// pageView is what every printed list has beside its items.
type pageView struct {
	Total      int    `json:"total"`
	Limit      int    `json:"limit"`
	Offset     int    `json:"offset"`
	NextCursor string `json:"next_cursor"`
}

func viewOfPage(total int, p agentsandbox.Page, next string) pageView {
	return pageView{Total: total, Limit: p.Limit, Offset: p.Offset, NextCursor: next}
}

// noteMore says that a list does not end where the table does.
func (a *app) noteMore(shown, total int, next string) {
	if next != "" {
		a.note("%d of %d shown; --cursor %s shows the next.", shown, total, next)
	}
}
