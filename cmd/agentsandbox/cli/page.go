package cli

import "github.com/agentsandbox/agentsandbox"

// pageFlags choose a part of a list.
type pageFlags struct {
	Limit  int `default:"50" placeholder:"N" help:"How many to show, from 1 to 100 (default ${default})."`
	Offset int `default:"0" placeholder:"N" help:"How many of the newest to leave out (default ${default})."`
}

func (f pageFlags) page() (agentsandbox.Page, error) {
	p := agentsandbox.Page{Limit: f.Limit, Offset: f.Offset}
	return p, p.Validate()
}

// pageView is what every printed list has beside its items.
type pageView struct {
	Total  int `json:"total"`
	Limit  int `json:"limit"`
	Offset int `json:"offset"`
}

func viewOfPage(total int, p agentsandbox.Page) pageView {
	return pageView{Total: total, Limit: p.Limit, Offset: p.Offset}
}

// noteMore says that a list does not end where the table does.
func (a *app) noteMore(shown, total int, p agentsandbox.Page) {
	if next := p.Offset + shown; shown > 0 && next < total {
		a.note("%d of %d shown; --offset %d shows the next.", shown, total, next)
	}
}
