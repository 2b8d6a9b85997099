package pool_test

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

const mib = 1 << 20

// ofMemory are the limits of a sandbox that reserves a tenth of them.
func ofMemory(mb int64) runtime.Limits { return runtime.Limits{MemoryBytes: mb * mib} }

// admission is a pool with a budget of 1000 MiB whose default kind reserves 100.
func admission(change func(*pool.Options)) (*pool.Pool, *maker) {
	m := &maker{live: map[string]*member{}}
	var n atomic.Int64
	opts := pool.Options{
		Runtime: m, NewID: func() string { return fmt.Sprint("sb", n.Add(1)) },
		Stocks: []pool.Stock{{Snapshot: bare}}, Builders: 2, Limits: ofMemory(1000),
		Budget: 1000 * mib, ReservePercent: 10, ReserveMin: 10 * mib, Wait: time.Minute,
		Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&opts)
	}
	return pool.New(opts), m
}

// reservedBy adds up what the sandboxes of a maker should reserve.
func (m *maker) reserved() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum int64
	for _, sb := range m.live {
		sum += max(sb.limits.MemoryBytes/10, 10*mib)
	}
	return sum
}

// named is an owner that has a group for itself, or is "name of group".
func named(owner string) pool.Owner {
	name, group, ok := strings.Cut(owner, " of ")
	if !ok {
		group = "group of " + owner
	}
	return pool.Owner{Group: group, Name: name}
}

var someone = named("key")

func mustClaim(t *testing.T, p *pool.Pool, owner string, l runtime.Limits) runtime.Sandbox {
	t.Helper()
	sb, err := p.Claim(t.Context(), named(owner), bare, l)
	if err != nil {
		t.Fatal(err)
	}
	return sb
}

func wantCode(t *testing.T, err error, want agentsandbox.Code) {
	t.Helper()
	if agentsandbox.CodeOf(err) != want {
		t.Errorf("%v; want code %s", err, want)
	}
}

// TestTheBudgetIsNeverExceeded claims and destroys sandboxes of many sizes at
// once, and looks at the sum of the reservations whenever one is made.
func TestTheBudgetIsNeverExceeded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) {
			o.Stocks[0].Size, o.StockMemory, o.Builders = 2, 300*mib, 4
		})
		var most atomic.Int64
		m.onStart = func() {
			for now, old := p.Stats().Reserved, most.Load(); now > old && !most.CompareAndSwap(old, now); old = most.Load() {
			}
		}
		p.Start()
		sizes := []int64{50, 500, 1000, 3000, 9000}
		var claims sync.WaitGroup
		for owner := range 8 {
			claims.Go(func() {
				rng := rand.New(rand.NewPCG(1, uint64(owner)))
				for range 50 {
					ctx, cancel := context.WithTimeout(t.Context(), time.Duration(1+rng.IntN(60_000))*time.Millisecond)
					sb, err := p.Claim(ctx, named(fmt.Sprint(owner)), bare, ofMemory(sizes[rng.IntN(len(sizes))]))
					cancel()
					if err != nil {
						continue // it gave up: what it was promised must not be lost
					}
					time.Sleep(time.Duration(rng.IntN(300)) * time.Millisecond)
					if err := sb.Destroy(t.Context()); err != nil {
						t.Error(err)
					}
				}
			})
		}
		claims.Wait()
		if most.Load() > 1000*mib || most.Load() < 900*mib {
			t.Errorf("at most %d MiB were reserved; the budget is 1000", most.Load()/mib)
		}
		time.Sleep(time.Hour) // of the bubble's clock: the stock shrinks back
		if got := p.Stats(); got.Reserved != m.reserved() || got.Waiting != 0 || got.Ready != 2 || p.Live() != 2 {
			t.Errorf("afterwards: %+v, %d live; the sandboxes there are reserve %d", got, p.Live(), m.reserved())
		}
		p.Close()
		if p.Stats().Reserved != 0 || m.alive() != 0 {
			t.Errorf("after Close: %+v, %d alive", p.Stats(), m.alive())
		}
	})
}

func TestABurstOfOneOwnerDoesNotHoldUpAnother(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Builders, o.Max = 1, 1 })
		m.gate = make(chan struct{})
		p.Start()
		served := make(chan string)
		ask := func(owner string, n int) {
			for range n {
				go func() {
					sb, err := p.Claim(t.Context(), named(owner), bare, ofMemory(1000))
					if err != nil {
						t.Error(err)
						return
					}
					served <- owner
					_ = sb.Destroy(t.Context())
				}()
				synctest.Wait()
			}
		}
		ask("greedy", 20)
		ask("modest", 3)
		ask("late", 2)
		var order []string
		for range 25 {
			m.gate <- struct{}{}
			order = append(order, <-served)
		}
		got := strings.Join(order[:9], " ")
		// The first had it before the others came.
		if want := "greedy greedy modest late greedy modest late greedy modest"; got != want {
			t.Errorf("served in the order %s; want %s", got, want)
		}
		p.Close()
	})
}

func TestTheLineIsBoundedAndFair(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, _ := admission(func(o *pool.Options) { o.Waiting = 4 })
		p.Start()
		var held []runtime.Sandbox
		for range 10 {
			held = append(held, mustClaim(t, p, "first", ofMemory(1000)))
		}
		type answer struct {
			owner string
			sb    runtime.Sandbox
			err   error
		}
		answers := make(chan answer, 10)
		ask := func(owner string) {
			go func() {
				sb, err := p.Claim(t.Context(), named(owner), bare, ofMemory(1000))
				answers <- answer{owner, sb, err}
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
		for range 4 {
			ask("greedy")
		}
		ask("greedy") // a fifth of its own has no place
		refused("greedy")
		ask("modest") // takes the place of the last of those
		refused("greedy")
		ask("modest") // 3 and 1: the greedy one still has more
		refused("greedy")
		ask("modest") // 2 and 2: nobody has more
		refused("modest")
		if got := p.Stats(); got.Waiting != 4 || got.Refusals != 4 {
			t.Errorf("%+v; want 4 waiting and 4 refused", got)
		}
		_ = held[0].Destroy(t.Context())
		if a := <-answers; a.err != nil || a.owner != "greedy" {
			t.Errorf("the first in the line: %+v", a)
		}
		time.Sleep(time.Minute) // of the bubble's clock: the wait is over
		synctest.Wait()
		for range 3 {
			wantCode(t, (<-answers).err, agentsandbox.CodeUnavailable)
		}
		p.Close()
	})
}

// TestLargeClaims checks that one that has to wait for memory is passed by small
// ones, but not for ever.
func TestLargeClaims(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Wait = 0 })
		p.Start()
		_, err := p.Claim(t.Context(), someone, bare, ofMemory(10_001))
		wantCode(t, err, agentsandbox.CodeInvalidRequest)

		held := mustClaim(t, p, "other", ofMemory(2000))
		large := make(chan runtime.Sandbox)
		go func() { large <- mustClaim(t, p, "large", ofMemory(9000)) }()
		synctest.Wait()
		passed := 0
		for {
			ctx, cancel := context.WithTimeout(t.Context(), time.Second)
			sb, err := p.Claim(ctx, named(fmt.Sprint("small", passed)), bare, ofMemory(1000))
			cancel()
			if err != nil {
				break
			}
			passed++
			_ = sb.Destroy(t.Context())
			if passed > 100 {
				t.Fatal("the large claim starves")
			}
		}
		if passed == 0 {
			t.Error("nothing passed a claim that could not be served")
		}
		_ = held.Destroy(t.Context())
		_ = (<-large).Destroy(t.Context())
		p.Close()
		if m.alive() != 0 {
			t.Errorf("%d sandboxes leaked", m.alive())
		}
	})
}

func TestIdleSandboxesMakeRoom(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Stocks[0].Size = 9 })
		p.Start()
		synctest.Wait()
		if got := p.Stats(); got.Ready != 9 || got.Reserved != 900*mib {
			t.Fatalf("%+v", got)
		}
		sb := mustClaim(t, p, "key", ofMemory(5000))
		time.Sleep(time.Minute) // of the bubble's clock
		if got := p.Stats(); got.Ready != 5 || got.Reserved != 1000*mib {
			t.Errorf("beside a claim of half the budget: %+v", got)
		}
		_ = sb.Destroy(t.Context())
		time.Sleep(time.Minute)
		if got := p.Stats(); got.Ready != 9 || m.reserved() != 900*mib {
			t.Errorf("after it: %+v", got)
		}
		p.Close()
	})
}

func TestTheStockFollowsDemand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Stocks[0].Size, o.StockMemory = 2, 450*mib })
		p.Start()
		synctest.Wait()
		use := func(l runtime.Limits) (warm bool) {
			t.Helper()
			before := m.started.Load()
			sb := mustClaim(t, p, "key", l)
			warm = m.started.Load() == before
			_ = sb.Destroy(t.Context())
			time.Sleep(time.Second) // of the bubble's clock
			return warm
		}
		odd := ofMemory(4000)
		if use(odd) {
			t.Error("the first claim of a kind was warm")
		}
		for range 2 {
			if !use(odd) {
				t.Error("a later one was not")
			}
		}
		if got := p.Stats(); got.Goal != 3 || got.Ready != 3 {
			t.Errorf("%+v; want one more than the two of the default kind", got)
		}
		// Another kind takes its place, for which there is no more memory.
		if use(ofMemory(3000)) || !use(ofMemory(3000)) || use(odd) {
			t.Error("the stock is not of the kind that was claimed last")
		}
		if got := p.Stats(); got.Goal != 3 || got.Ready != 3 {
			t.Errorf("%+v; the stock must stay within its memory", got)
		}
		// Claims that come faster than sandboxes are made raise the stock.
		m.onStart = func() { time.Sleep(100 * time.Millisecond) }
		var burst sync.WaitGroup
		for range 5 {
			burst.Go(func() { _ = mustClaim(t, p, "key", ofMemory(1000)).Destroy(t.Context()) })
		}
		burst.Wait()
		time.Sleep(time.Second)
		if got := p.Stats(); got.Goal != 5 || got.Ready != 5 {
			t.Errorf("%+v after a burst of five", got)
		}
		time.Sleep(time.Hour)
		if got := p.Stats(); got.Goal != 2 || got.Ready != 2 || m.alive() != 2 {
			t.Errorf("%+v, %d alive; want the stock as it was set", got, m.alive())
		}
		p.Close()
	})
}

func TestAdoptedSandboxesCount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := admission(func(o *pool.Options) { o.Wait = time.Second })
		found, err := m.Start(t.Context(), runtime.Spec{ID: "found", Limits: ofMemory(12_000)})
		if err != nil {
			t.Fatal(err)
		}
		adopted := p.Adopt(found)
		p.Start()
		if got := p.Stats(); got.Reserved != 1200*mib || p.Live() != 1 {
			t.Errorf("%+v, %d live", got, p.Live())
		}
		_, err = p.Claim(t.Context(), someone, bare, ofMemory(1000))
		wantCode(t, err, agentsandbox.CodeUnavailable)
		_ = adopted.Destroy(t.Context())
		_ = mustClaim(t, p, "key", ofMemory(1000)).Destroy(t.Context())
		p.Close()
		if p.Stats().Reserved != 0 || m.alive() != 0 {
			t.Errorf("afterwards: %+v", p.Stats())
		}
	})
}

// TestPressure fills the memory and looks at whom it costs the sandbox.
func TestPressure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var m *maker
		p, m := admission(func(o *pool.Options) {
			o.Stocks[0].Size, o.StockMemory, o.Wait = 1, 200*mib, time.Second
			o.MemoryUse = func(int64) (int64, error) { return m.use(), nil }
		})
		p.Start()
		small, large := mustClaim(t, p, "key", ofMemory(1000)), mustClaim(t, p, "key", ofMemory(4000))
		setUse := func(sb runtime.Sandbox, mb int64) {
			m.mu.Lock()
			m.live[sb.ID()].usage.MemoryBytes = mb * mib
			m.mu.Unlock()
			time.Sleep(300 * time.Millisecond) // of the bubble's clock: the pool has looked
			synctest.Wait()
		}
		setUse(large, 500) // over its 400
		setUse(small, 490) // over its 100 by more
		if _, err := p.Claim(t.Context(), someone, bare, ofMemory(1000)); err != nil {
			t.Errorf("below the budget: %v", err)
		}
		setUse(large, 600) // 1090 of 1000
		_, err := p.Claim(t.Context(), someone, bare, ofMemory(1000))
		wantCode(t, err, agentsandbox.CodeUnavailable)
		if got := p.Stats(); got.Evictions != 0 {
			t.Errorf("%+v; nothing is to be ended yet", got)
		}
		setUse(large, 700) // 1190: half way to the wall is 1128
		select {
		case <-small.Done():
		default:
			t.Fatal("the sandbox furthest over its reservation lives")
		}
		why := small.(interface{ Evicted() string }).Evicted()
		if !strings.Contains(why, "490 MiB") || !strings.Contains(why, "100 MiB set aside") {
			t.Errorf("it is said: %q", why)
		}
		if u, err := small.Usage(); err != nil || u.MemoryBytes != 490*mib {
			t.Errorf("its counters: %+v, %v", u, err)
		}
		time.Sleep(time.Second)
		select {
		case <-large.Done():
			t.Error("a sandbox was ended although that was not needed any more")
		default:
		}
		if got := p.Stats(); got.Evictions != 1 {
			t.Errorf("%+v", got)
		}
		if _, err := p.Claim(t.Context(), someone, bare, ofMemory(1000)); err != nil {
			t.Errorf("after the pressure: %v", err)
		}
		p.Close()
	})
}

// TestTheKernelWasFaster checks whom the pool believes to be a victim of others.
func TestTheKernelWasFaster(t *testing.T) {
	p, m := admission(nil)
	p.Start()
	defer p.Close()
	sb := mustClaim(t, p, "key", ofMemory(1000))
	for _, test := range []struct {
		usage  runtime.Usage
		victim bool
	}{
		{runtime.Usage{MemoryPeakBytes: 600 * mib}, false},
		{runtime.Usage{MemoryPeakBytes: 600 * mib, OOMKills: 1}, true},
		{runtime.Usage{MemoryPeakBytes: 1000 * mib, OOMKills: 1}, false},
	} {
		m.mu.Lock()
		m.live[sb.ID()].usage = test.usage
		m.mu.Unlock()
		if why := sb.(interface{ Evicted() string }).Evicted(); (why != "") != test.victim {
			t.Errorf("%+v: %q", test.usage, why)
		}
	}
}
