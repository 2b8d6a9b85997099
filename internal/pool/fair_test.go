package pool_test

import (
	"strings"
	"testing"
	"testing/synctest"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/pool"
)

// TestManyNamesGetNoMoreTurns: a group with many owners gets as many turns as one
// with a single owner, and its owners share them.
func TestManyNamesGetNoMoreTurns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Builders, o.Max = 1, 1 })
		m.gate = make(chan struct{})
		p.Start()
		served := make(chan string)
		ask := func(owners ...string) {
			for _, owner := range owners {
				go func() {
					sb, err := p.Claim(t.Context(), named(owner), bare, ofMemory(1000))
					if err != nil {
						t.Error(err)
						return
					}
					served <- strings.Fields(owner)[0]
					_ = sb.Destroy(t.Context())
				}()
				synctest.Wait()
			}
		}
		ask("first of other") // gets what there is
		ask("a1 of A", "a1 of A", "a2 of A", "a3 of A", "a4 of A", "b of B", "b of B", "b of B")
		var order []string
		for range 9 {
			m.gate <- struct{}{}
			order = append(order, <-served)
		}
		if got, want := strings.Join(order, " "), "first a1 b a2 b a3 b a4 a1"; got != want {
			t.Errorf("served in the order %s; want %s", got, want)
		}
		p.Close()
	})
}

// TestManyNamesGetNoMorePlaces: in a full line the group with most in it gives a
// place to another group, and within a group the owner with most.
func TestManyNamesGetNoMorePlaces(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := admission(func(o *pool.Options) { o.Waiting = 4 })
		p.Start()
		for range 10 {
			mustClaim(t, p, "first", ofMemory(1000))
		}
		type answer struct {
			owner string
			err   error
		}
		answers := make(chan answer, 10)
		ask := func(owner string) {
			go func() {
				_, err := p.Claim(t.Context(), named(owner), bare, ofMemory(1000))
				answers <- answer{owner, err}
			}()
			synctest.Wait()
		}
		refused := func(owner string) {
			t.Helper()
			select {
			case a := <-answers:
				wantCode(t, a.err, agentsandbox.CodeUnavailable)
				if a.owner != owner {
					t.Errorf("%s was refused; want %s", a.owner, owner)
				}
			default:
				t.Errorf("nobody was refused; want %s", owner)
			}
		}
		ask("a1 of A")
		ask("a1 of A")
		ask("a2 of A")
		ask("a3 of A")
		ask("b of B") // A has 4 places, and its a1 the most of them
		refused("a1 of A")
		ask("b of B") // 3 and 1, and in A nobody has two
		select {
		case a := <-answers:
			wantCode(t, a.err, agentsandbox.CodeUnavailable)
			if !strings.HasSuffix(a.owner, " of A") {
				t.Errorf("%s was refused; want one of A", a.owner)
			}
		default:
			t.Error("nobody was refused; want one of A")
		}
		ask("b of B") // 2 and 2: no group has more
		refused("b of B")
		ask("c of B") // of its own group, b has more than it
		refused("b of B")
		p.Close()
		for range 4 {
			wantCode(t, (<-answers).err, agentsandbox.CodeUnavailable)
		}
	})
}
