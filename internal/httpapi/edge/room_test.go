package edge

import (
	"testing"

	"github.com/agentsandbox/agentsandbox"
)

func TestRoomShares(t *testing.T) {
	r := newRoom(1000)
	for _, step := range []struct {
		tenant, key string
		n           int64
		ok          bool
	}{
		{"a", "a1", 5000, true}, // the first always fits
		{"a", "a1", 1, false},
		{"b", "b1", 1, false}, // the whole is full
		{"a", "a1", -5000, true},
		{"a", "a1", 200, true}, {"a", "a1", 50, true}, {"a", "a1", 1, false}, // a quarter
		{"a", "a2", 250, true}, {"a", "a3", 1, false}, // half
		{"b", "b1", 250, true}, {"b", "b2", 250, true}, {"c", "c1", 1, false},
	} {
		if step.n < 0 {
			r.give(step.tenant, step.key, -step.n)
		} else if err := r.take(step.tenant, step.key, 0, step.n, false); (err == nil) != step.ok {
			t.Errorf("%+v: %v", step, err)
		}
	}
	if err := r.take("c", "c1", 0, 400, true); err != nil || r.inUse() != 1400 {
		t.Errorf("%v, %d", err, r.inUse())
	}
}

func TestRequestsOfAKeyAreBounded(t *testing.T) {
	l, err := newLimiter(Rates{Requests: 2})
	if err != nil {
		t.Fatal(err)
	}
	leave, _ := l.enter("k")
	if _, err := l.enter("k"); err != nil {
		t.Fatal(err)
	}
	if _, err := l.enter("k"); agentsandbox.CodeOf(err) != agentsandbox.CodeRateLimited {
		t.Errorf("%v", err)
	}
	if _, err := l.enter("other"); err != nil {
		t.Error(err)
	}
	leave()
	if _, err := l.enter("k"); err != nil {
		t.Error(err)
	}
}
