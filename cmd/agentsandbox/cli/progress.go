package cli

import (
	"fmt"
	"io"
	"time"
)

// Progress is shown to a person who waits, not for what is over at once.
const (
	progressAfter = time.Second
	progressEvery = 200 * time.Millisecond
) // errors of showing it are of no consequence

// progressReader shows on a terminal how much of a file has been read. It does
// so within Read, so that there is no goroutine to end.
type progressReader struct {
	io.Reader
	a     *app
	name  string
	size  int64
	read  int64
	began time.Time
	last  time.Time // of the last line shown; zero for none
}

// progress wraps a file of a size that is about to be sent.
func (a *app) progress(r io.Reader, name string, size int64) *progressReader {
	return &progressReader{Reader: r, a: a, name: name, size: size, began: a.Now()}
}

func (p *progressReader) Read(b []byte) (int, error) {
	n, err := p.Reader.Read(b)
	p.read += int64(n)
	if !p.a.StderrTerminal {
		return n, err
	}
	if now := p.a.Now(); now.Sub(p.began) >= progressAfter && now.Sub(p.last) >= progressEvery {
		p.last = now
		p.show()
	}
	return n, err
}

func (p *progressReader) show() {
	_, _ = fmt.Fprintf(p.a.Stderr, "\r%s: %s of %s (%d %%) ", neutral(p.name), sizeText(p.read), sizeText(p.size), 100*p.read/max(p.size, 1))
}

// done ends the line.
func (p *progressReader) done() {
	if !p.last.IsZero() {
		p.show()
		_, _ = fmt.Fprintln(p.a.Stderr)
	}
}
