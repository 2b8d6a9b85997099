package gvisor

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

func TestAttachIsTriedAgainWhileTheProcessLives(t *testing.T) {
	broken := errors.New("broken pipe")
	for name, test := range map[string]struct {
		fails int // attempts; -1: all
		ends  time.Duration
		want  error
		after time.Duration
	}{
		"at once":             {0, 0, nil, 0},
		"killed a few times":  {3, 0, nil, 3 * attachPause},
		"the process ends":    {-1, attachPause * 5 / 2, broken, attachPause * 5 / 2},
		"it is never let in":  {-1, 0, broken, attachPatience},
		"nobody waits longer": {-1, 0, broken, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				if name == "nobody waits longer" {
					time.AfterFunc(time.Second, cancel)
				}
				ended := make(chan struct{})
				if test.ends > 0 {
					time.AfterFunc(test.ends, func() { close(ended) })
				}
				began, tries := time.Now(), 0
				err := patiently(ctx, ended, func() error {
					if tries++; test.fails < 0 || tries <= test.fails {
						return broken
					}
					return nil
				})
				if !errors.Is(err, test.want) || time.Since(began) != test.after {
					t.Errorf("%v after %v and %d attempts; want %v after %v", err, time.Since(began), tries, test.want, test.after)
				}
			})
		})
	}
}
