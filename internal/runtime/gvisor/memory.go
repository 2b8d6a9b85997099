package gvisor

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// Memory has two limits. The control group's is a wall: the kernel of the host
// kills the whole sandbox there. The one that was asked for stands below it, and
// is kept by looking: when a sandbox holds more, its agent ends every process of
// the user, which frees their memory, and the sandbox lives on with its files.
const (
	// The wall stands a quarter above the limit, within these bounds and at most
	// as much again: enough for what the fastest program takes between two looks
	// and until it is dead. Hundreds of processes that all allocate leave the agent,
	// which is to end them, a small share of the sandbox's CPU for a while: 128 MiB
	// were too little for that on a busy machine.
	leastMargin = 256 << 20
	mostMargin  = 1 << 30

	// fillRate is how fast a sandbox can take memory, in bytes a second. The next
	// look comes before it could have passed the limit at that rate.
	fillRate  = 4 << 30
	leastLook = 2 * time.Millisecond
	mostLook  = 250 * time.Millisecond
	// Without a run under way, only what earlier runs left behind can take memory:
	// hundreds of idle sessions are to cost nothing.
	idleRate = 1 << 30
	mostIdle = 2 * time.Second

	// reliefTime bounds the ending of the user's processes, and reliefWait the
	// time that the sandbox's kernel takes to give their memory back.
	reliefTime = 5 * time.Second
	reliefWait = time.Second
	// reliefSlack is what runs may take when the memory is held by files, so that
	// they can be removed.
	reliefSlack = 32 << 20
)

// walled puts the wall in the place of the limit of memory.
func walled(l runtime.Limits) runtime.Limits {
	l.MemoryBytes = MemoryWall(l.MemoryBytes)
	return l
}

// MemoryWall is where the host stops a sandbox of a memory limit, both in bytes;
// 0: nowhere.
func MemoryWall(limit int64) int64 {
	if limit <= 0 {
		return 0
	}
	return limit + memoryMargin(limit)
}

func memoryMargin(limit int64) int64 {
	return min(max(limit/4, leastMargin), mostMargin, limit)
}

// memoryWatch keeps the limit of one sandbox, from its first run on.
type memoryWatch struct {
	limit atomic.Int64 // bytes; 0: none
	once  sync.Once
	begun chan struct{} // capacity 1: a run has begun

	mu   sync.Mutex
	runs map[*watchedRun]bool // under way
}

// Run implements [runtime.Guest]: it watches the memory that the run takes.
func (s *sandbox) Run(ctx context.Context, cmd runtime.Command) (runtime.Run, error) {
	return s.watched(func() (runtime.Run, error) { return s.Guest.Run(ctx, cmd) })
}

// Attach implements [runtime.Guest], as Run does.
func (s *sandbox) Attach(ctx context.Context, cmd runtime.Command, from runtime.Progress) (runtime.Run, error) {
	return s.watched(func() (runtime.Run, error) { return s.Guest.Attach(ctx, cmd, from) })
}

// watched begins a run and watches the memory that it takes.
func (s *sandbox) watched(begin func() (runtime.Run, error)) (runtime.Run, error) {
	s.memory.once.Do(func() {
		s.memory.begun = make(chan struct{}, 1)
		s.r.owned.Go(s.watchMemory)
	})
	before, err := s.Usage()
	if err != nil {
		return nil, err
	}
	w := &watchedRun{s: s, before: before, peak: before.MemoryBytes}
	s.memory.mu.Lock()
	if s.memory.runs == nil {
		s.memory.runs = map[*watchedRun]bool{}
	}
	s.memory.runs[w] = true
	s.memory.mu.Unlock()
	select {
	case s.memory.begun <- struct{}{}:
	default:
	}
	if w.Run, err = begin(); err != nil {
		w.forget()
		return nil, err
	}
	return w, nil
}

// watchedRun is a run that knows how much memory its sandbox held.
type watchedRun struct {
	runtime.Run
	s      *sandbox
	before runtime.Usage
	peak   int64 // of what was seen; guarded by the watch's mu
}

// Next implements [runtime.Run].
func (w *watchedRun) Next(ctx context.Context) (runtime.Event, error) {
	ev, err := w.Run.Next(ctx)
	if ev.Result == nil {
		return ev, err
	}
	seen := w.forget()
	// The counter is of the sandbox's whole life. Has it moved, the peak was now.
	if after, err := w.s.Usage(); err == nil {
		ev.Result.MemoryPeakBytes = max(seen, after.MemoryBytes)
		if after.MemoryPeakBytes > w.before.MemoryPeakBytes {
			ev.Result.MemoryPeakBytes = after.MemoryPeakBytes
		}
	}
	return ev, err
}

// Close implements [runtime.Run].
func (w *watchedRun) Close() error {
	w.forget()
	return w.Run.Close()
}

// forget takes the run off the watch and returns its peak. It can be repeated.
func (w *watchedRun) forget() int64 {
	w.s.memory.mu.Lock()
	defer w.s.memory.mu.Unlock()
	delete(w.s.memory.runs, w)
	return w.peak
}

// saw notes how much memory the sandbox holds, for the runs under way.
func (m *memoryWatch) saw(used int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for w := range m.runs {
		w.peak = max(w.peak, used)
	}
}

// watchMemory keeps the limit until the sandbox is gone.
func (s *sandbox) watchMemory() {
	look := time.NewTimer(0)
	defer look.Stop()
	var slack int64 // above the limit, while files hold the memory
	for {
		select {
		case <-s.done:
			return
		case <-s.memory.begun:
		case <-look.C:
		}
		limit := s.memory.limit.Load()
		used, err := s.m.group.MemoryInUse(limit)
		if err != nil {
			look.Reset(mostLook) // most likely it is being removed
			continue
		}
		s.memory.saw(used)
		if limit <= 0 {
			look.Reset(mostLook)
			continue
		}
		if used <= limit {
			slack = 0
		}
		if used > limit+slack {
			slack = s.relieve(limit)
			used = limit
		}
		look.Reset(nextLook(limit+slack-used, s.memory.idle()))
	}
}

// nextLook is how long a sandbox that may take so many more bytes can be left
// alone.
func nextLook(left int64, idle bool) time.Duration {
	rate, most := float64(fillRate), mostLook
	if idle {
		rate, most = idleRate, mostIdle
	}
	return min(max(time.Duration(float64(left)/rate*float64(time.Second)), leastLook), most)
}

// idle tells whether no run is under way.
func (m *memoryWatch) idle() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.runs) == 0
}

// relieve has the agent end the user's processes and waits for their memory. It
// returns what to allow above the limit from now on: nothing, unless something
// else holds the memory.
func (s *sandbox) relieve(limit int64) (slack int64) {
	ctx, cancel := context.WithTimeout(context.Background(), reliefTime)
	defer cancel()
	if err := s.client.Relieve(ctx); err != nil {
		select {
		case <-s.done:
		default:
			s.r.log.Warn("a sandbox above its memory limit could not be relieved", "sandbox", s.m.id, "error", err)
		}
		return 0
	}
	end := time.Now().Add(reliefWait)
	tick := time.NewTicker(leastLook)
	defer tick.Stop()
	for {
		used, err := s.m.group.MemoryInUse(limit)
		if err != nil || used <= limit {
			return 0
		}
		if time.Now().After(end) {
			s.r.log.Info("a sandbox holds more memory than its limit in files, without a process", "sandbox", s.m.id, "bytes", used, "limit_bytes", limit)
			return min(used-limit+reliefSlack, memoryMargin(limit)*3/4)
		}
		select {
		case <-s.done:
			return 0
		case <-tick.C:
		}
	}
}
