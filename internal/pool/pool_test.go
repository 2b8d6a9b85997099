package pool_test

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/pool"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// maker is a runtime whose sandboxes can do nothing but live and die: what the
// pool needs of them.
type maker struct {
	runtime.Runtime
	gate chan struct{} // if set, each Start waits for a value
	fail atomic.Bool
	// failLoaded fails what is not bare.
	failLoaded atomic.Bool
	onStart    func() // if set, called by each Start
	started    atomic.Int64
	most       atomic.Int64 // the most builds at once
	now        atomic.Int64

	mu          sync.Mutex
	live        map[string]*member
	failDestroy int // how often the Destroy of each member fails first
}

type member struct {
	runtime.Sandbox
	id     string
	owner  *maker
	once   sync.Once
	done   chan struct{}
	limits runtime.Limits
	spec   runtime.Spec
	usage  runtime.Usage // guarded by the maker's lock
	failed int           // times that Destroy failed
}

func (m *maker) Start(ctx context.Context, spec runtime.Spec) (runtime.Sandbox, error) {
	n := m.now.Add(1)
	defer m.now.Add(-1)
	for old := m.most.Load(); n > old && !m.most.CompareAndSwap(old, n); old = m.most.Load() {
	}
	if m.gate != nil {
		select {
		case <-m.gate:
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
	if m.fail.Load() || spec.Limits.MemoryBytes < 0 || m.failLoaded.Load() && spec.Snapshot == loaded {
		return nil, errors.New("no room")
	}
	m.started.Add(1)
	if m.onStart != nil {
		m.onStart()
	}
	sb := &member{id: spec.ID, owner: m, done: make(chan struct{}), limits: spec.Limits, spec: spec}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.live[sb.id] = sb
	return sb, nil
}

func (m *maker) alive() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.live)
}

// use is how much memory all members use together.
func (m *maker) use() int64 {
	m.mu.Lock()
	defer m.mu.Unlock()
	var sum int64
	for _, sb := range m.live {
		sum += sb.usage.MemoryBytes
	}
	return sum
}

func (s *member) Usage() (runtime.Usage, error) {
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	return s.usage, nil
}

func (s *member) WorkingSet() (int64, error) {
	u, err := s.Usage()
	return u.MemoryBytes, err
}

func (s *member) Limits() runtime.Limits { return s.limits }

func (s *member) ID() string            { return s.id }
func (s *member) Done() <-chan struct{} { return s.done }
func (s *member) die()                  { s.once.Do(func() { close(s.done) }) }

func (s *member) Destroy(context.Context) error {
	s.die()
	s.owner.mu.Lock()
	defer s.owner.mu.Unlock()
	if s.failed < s.owner.failDestroy {
		s.failed++
		return errors.New("still busy")
	}
	delete(s.owner.live, s.id)
	return nil
}

func newPool(size, builders int) (*pool.Pool, *maker) {
	m := &maker{live: map[string]*member{}}
	var n atomic.Int64
	return pool.New(pool.Options{
		Runtime: m, NewID: func() string { return fmt.Sprint("sb", n.Add(1)) },
		Stocks: []pool.Stock{{Snapshot: bare, Size: size}}, Builders: builders,
		Limits: runtime.Limits{MemoryBytes: 1 << 20}, Logger: slog.New(slog.DiscardHandler),
		Max: 5, Wait: 10 * time.Second,
	}), m
}

var limits = runtime.Limits{MemoryBytes: 1 << 20}

// Snapshots of tests.
const bare, loaded = "bare", "loaded"

func TestFillsAndRefills(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(3, 2)
		if p.Ready() == nil {
			t.Fatal("ready before anything was made")
		}
		p.Start()
		synctest.Wait()
		if err := p.Ready(); err != nil {
			t.Fatal(err)
		}
		a, err := p.Claim(t.Context(), someone, bare, limits)
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Second) // of the bubble's clock
		if got := p.Stats(); got.Ready != 3 || got.Building != 0 {
			t.Errorf("after a claim and a refill: %+v", got)
		}
		b, err := p.Claim(t.Context(), someone, bare, limits)
		if err != nil {
			t.Fatal(err)
		}
		if a.ID() == b.ID() {
			t.Error("one sandbox was handed out twice")
		}
		if m.most.Load() > 2 {
			t.Errorf("%d builds at once; the bound is 2", m.most.Load())
		}
		p.Close()
		p.Close()
		if m.alive() != 2 {
			t.Errorf("%d sandboxes live after Close; only the two claimed ones should", m.alive())
		}
		if _, err := p.Claim(t.Context(), someone, bare, limits); agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable {
			t.Errorf("claim after Close: %v", err)
		}
	})
}

func TestClaimsAreServedInOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(0, 1)
		m.gate = make(chan struct{})
		p.Start()
		order := make(chan int, 3)
		for i := range 3 {
			go func() {
				if _, err := p.Claim(t.Context(), someone, bare, limits); err == nil {
					order <- i
				}
			}()
			synctest.Wait()
		}
		for want := range 3 {
			m.gate <- struct{}{}
			if got := <-order; got != want {
				t.Errorf("claim %d was served in place of %d", got, want)
			}
		}
		p.Close()
	})
}

func TestACancelledClaimLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(0, 1)
		m.gate = make(chan struct{})
		p.Start()
		ctx, cancel := context.WithCancel(t.Context())
		failed := make(chan error)
		go func() {
			_, err := p.Claim(ctx, someone, bare, limits)
			failed <- err
		}()
		synctest.Wait()
		cancel()
		if err := <-failed; !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		m.gate <- struct{}{} // the sandbox that it waited for arrives now
		synctest.Wait()
		if got := p.Stats(); got.Ready+got.Building+got.Waiting != 0 || m.alive() != 0 {
			t.Errorf("%+v, %d alive; want the late sandbox destroyed", got, m.alive())
		}
		p.Close()
		if m.alive() != 0 {
			t.Errorf("%d sandboxes leaked", m.alive())
		}
	})
}

func TestFailuresReachTheWaitingAndBackOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(2, 2)
		m.fail.Store(true)
		p.Start()
		time.Sleep(time.Minute) // of the bubble's clock
		if p.Ready() == nil {
			t.Error("ready although no sandbox can be made")
		}
		if _, err := p.Claim(t.Context(), someone, bare, limits); agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable {
			t.Errorf("claim: %v", err)
		}
		m.fail.Store(false)
		time.Sleep(time.Minute)
		if got := p.Stats(); got.Ready != 2 {
			t.Errorf("not refilled after the failures ended: %+v", got)
		}
		p.Close()
	})
}

func TestDeadMembersAndOtherLimits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(1, 1)
		p.Start()
		synctest.Wait()
		for _, sb := range m.live {
			sb.die()
		}
		for range 2 { // the dead one, and those of other limits, are not handed out
			sb, err := p.Claim(t.Context(), someone, bare, limits)
			if err != nil {
				t.Fatal(err)
			}
			select {
			case <-sb.Done():
				t.Error("a dead sandbox was handed out")
			default:
			}
			_ = sb.Destroy(t.Context())
		}
		sb, err := p.Claim(t.Context(), someone, bare, runtime.Limits{MemoryBytes: 2 << 20})
		if err != nil {
			t.Fatal(err)
		}
		select {
		case <-sb.Done():
			t.Error("a dead sandbox was handed out")
		default:
		}
		if got := m.live[sb.ID()].limits.MemoryBytes; got != 2<<20 {
			t.Errorf("the limits of the claim are not in force: %d", got)
		}
		_, err = p.Claim(t.Context(), someone, bare, runtime.Limits{MemoryBytes: -1})
		if agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable {
			t.Errorf("refused limits: %v", err)
		}
		_ = sb.Destroy(t.Context())
		p.Close()
		if m.alive() != 0 {
			t.Errorf("%d sandboxes leaked", m.alive())
		}
	})
}

// TestWhatIsDestroyedLateIsGivenBack: whoever destroys a sandbox, and however often
// that fails, its place and reservation are free once it is gone.
func TestWhatIsDestroyedLateIsGivenBack(t *testing.T) {
	for name, rid := range map[string]func(p *pool.Pool, sb runtime.Sandbox){
		"its user":        func(_ *pool.Pool, sb runtime.Sandbox) { _ = sb.Destroy(t.Context()) },
		"its user, often": func(_ *pool.Pool, sb runtime.Sandbox) { _, _ = sb.Destroy(t.Context()), sb.Destroy(t.Context()) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p, m := newPool(0, 1)
				m.failDestroy = 5
				p.Start()
				sb, err := p.Claim(t.Context(), pool.Owner{}, bare, limits)
				if err != nil {
					t.Fatal(err)
				}
				rid(p, sb)
				if p.Live() != 1 {
					t.Error("the place of a sandbox that is there is free")
				}
				time.Sleep(time.Hour) // of the bubble
				if p.Live() != 0 || p.Stats().Reserved != 0 || m.alive() != 0 {
					t.Errorf("%d live, %d reserved", p.Live(), p.Stats().Reserved)
				}
				p.Close()
			})
		})
	}
}

func TestADeadMemberOfTheStockThatIsDestroyedLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(1, 1)
		m.failDestroy = 5
		p.Start()
		synctest.Wait()
		for _, sb := range m.live {
			sb.die()
		}
		if _, err := p.Claim(t.Context(), pool.Owner{}, bare, limits); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Hour)                        // of the bubble
		if p.Live() != m.alive() || m.alive() != 2 { // the claimed one, and the stock
			t.Errorf("%d count, %d live", p.Live(), m.alive())
		}
		m.failDestroy = 0
		p.Close()
	})
}

func TestTheBoundHoldsAndFreesUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, m := newPool(1, 2)
		p.Start()
		var held []runtime.Sandbox
		for range 5 {
			sb, err := p.Claim(t.Context(), someone, bare, limits)
			if err != nil {
				t.Fatal(err)
			}
			held = append(held, sb)
		}
		if _, err := p.Claim(t.Context(), someone, bare, limits); agentsandbox.CodeOf(err) != agentsandbox.CodeUnavailable {
			t.Errorf("a sixth sandbox of five: %v", err)
		}
		if m.alive() != 5 || p.Live() != 5 {
			t.Errorf("%d alive, %d counted; want 5", m.alive(), p.Live())
		}
		got := make(chan error)
		go func() {
			_, err := p.Claim(t.Context(), someone, bare, limits)
			got <- err
		}()
		synctest.Wait()
		for range 2 { // repeated: counted once
			if err := held[0].Destroy(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		if err := <-got; err != nil {
			t.Errorf("the claim that waited: %v", err)
		}
		if p.Live() != 5 {
			t.Errorf("%d counted; want 5", p.Live())
		}
		p.Close()
	})
}

// TestStocks checks which sandbox a claim of each snapshot gets.
func TestStocks(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		m := &maker{live: map[string]*member{}}
		var n atomic.Int64
		stock := runtime.Limits{MemoryBytes: 1 << 30, MilliCPUs: 1000}
		p := pool.New(pool.Options{
			Runtime: m, NewID: func() string { return fmt.Sprint("sb", n.Add(1)) },
			Stocks: []pool.Stock{
				{Snapshot: bare, Size: 1},
				{Snapshot: loaded, Size: 1, Reserve: 128 << 20, Instead: bare},
			},
			Limits: stock, ReserveMin: 16 << 20, Logger: slog.New(slog.DiscardHandler),
		})
		p.Start()
		synctest.Wait()
		if got := p.Stats(); got.Ready != 2 || got.Building != 0 || got.Reserved != (16+128)<<20 {
			t.Errorf("the stock: %+v", got)
		}
		claim := func(snapshot string, limits runtime.Limits, want string) {
			t.Helper()
			sb, err := p.Claim(t.Context(), someone, snapshot, limits)
			if err != nil {
				t.Fatal(err)
			}
			m.mu.Lock()
			got := m.live[sb.ID()].spec.Snapshot
			m.mu.Unlock()
			if got != want {
				t.Errorf("a claim of %q with %+v got %q", snapshot, limits, got)
			}
		}
		claim(bare, stock, bare)
		claim(loaded, stock, loaded)
		claim(loaded, runtime.Limits{MemoryBytes: 2 << 30, MilliCPUs: 1000}, loaded)
		claim("another", stock, "another") // without a stock
		time.Sleep(time.Second)            // of the bubble's clock
		m.failLoaded.Store(true)
		claim(loaded, stock, loaded) // of the stock
		claim(loaded, stock, bare)   // in its place
		p.Close()
	})
}
