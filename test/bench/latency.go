package main

import (
	"cmp"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"time"
)

const (
	hello     = "print(1)"
	helloOut  = "1\n"
	data      = "import numpy, pandas, matplotlib.pyplot\nprint(1)"
	shell     = "echo hi"
	shellOut  = "hi\n"
	bare      = "bare python3"
	bareData  = "bare python3, data libraries"
	bareShell = "bare bash"
	python    = "python"
	bash      = "bash"
	noSession = ""
)

// variant is one way to run a program. Its ratio is to the variant named by
// baseline.
type variant struct {
	name, baseline string
	goal           goal
	once           func() error
	times          []time.Duration
	other          *variant // the same with the other build
}

// goal is what the median is to stay below: a number of times the bare program's,
// and a time on top of that.
type goal struct {
	times float64
	plus  time.Duration
}

// verdict says what the goal is, and how the median stands to it.
func (g goal) verdict(median, base time.Duration) string {
	if g == (goal{}) {
		return ""
	}
	text := ms(g.plus)
	if g.times > 0 {
		text = strconv.FormatFloat(g.times, 'f', -1, 64) + " x"
		if g.plus > 0 {
			text += " + " + ms(g.plus)
		}
	}
	most := time.Duration(g.times*float64(base)) + g.plus
	if median <= most {
		return text + ": met"
	}
	return text + ": missed, " + ratioText(median, most) + " of it"
}

// latency measures single requests, one at a time.
func latency(o options, dir string, warm *server) error {
	cold, err := startCold(o.binary, dir, "cold")
	if err != nil {
		return err
	}
	defer cold.stop()
	session, err := warm.session()
	if err != nil {
		return err
	}
	defer warm.delete(session)
	variants := []*variant{
		{name: bare, once: command(helloOut, o.python, "-c", hello)},
		{name: "bubblewrap + python3", baseline: bare, once: command(helloOut, "bwrap", "--ro-bind", "/", "/", "--unshare-all", "--die-with-parent",
			"--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", o.python, "-c", hello)},
		{name: bareShell, once: command(shellOut, "/bin/bash", "-c", shell)},
	}
	if o.dataPython != "" {
		variants = append(variants, &variant{name: bareData, once: command(helloOut, o.dataPython, "-c", data)})
	}
	measured := ours("", warm, cold, session)
	variants = append(variants, measured...)
	ready := func() error { return cmp.Or(warm.full(), cold.empty()) }
	if o.against != "" {
		other, stop, err := startOther(o.against, dir)
		if err != nil {
			return err
		}
		defer stop()
		for i, v := range ours(", other build", other.warm, other.cold, other.session) {
			measured[i].other = v
			variants = append(variants, v)
		}
		ready = func() error { return cmp.Or(warm.full(), cold.empty(), other.warm.full(), other.cold.empty()) }
	}
	if err := takeTurns(variants, o.rounds, ready); err != nil {
		return err
	}
	fmt.Printf("\n## Latency, %d rounds\n\n| what | median | p99 | median, to its bare program | p99, to it | goal for the median |\n|---|---:|---:|---:|---:|---|\n", o.rounds)
	for _, v := range variants {
		median, p99 := quantile(v.times, 0.5), quantile(v.times, 0.99)
		ratio, worst, verdict := "", "", ""
		for _, base := range variants {
			if base.name == v.baseline {
				b := quantile(base.times, 0.5)
				ratio, worst, verdict = ratioText(median, b), ratioText(p99, b), v.goal.verdict(median, b)
			}
		}
		fmt.Printf("| %s | %s | %s | %s | %s | %s |\n", v.name, ms(median), ms(p99), ratio, worst, verdict)
	}
	compare(measured)
	return warm.overhead(session, o.rounds)
}

// compare prints how each variant stands to the same with the other build, if there
// is one.
func compare(measured []*variant) {
	if measured[0].other == nil {
		return
	}
	fmt.Printf("\n## Beside the other build\n\n| what | this build, median | other build, median | ratio | ratio of the first quarter's end |\n|---|---:|---:|---:|---:|\n")
	for _, v := range measured {
		median, other := quantile(v.times, 0.5), quantile(v.other.times, 0.5)
		fmt.Printf("| %s | %s | %s | %s | %s |\n", v.name, ms(median), ms(other), ratioText(median, other),
			ratioText(quantile(v.times, 0.25), quantile(v.other.times, 0.25)))
	}
}

// ours are the ways in which a pair of servers, one with an empty pool, runs the
// programs.
func ours(suffix string, warm, cold *server, session string) []*variant {
	return []*variant{
		{name: "fresh sandbox, warm pool" + suffix, baseline: bare, goal: goal{times: 0.4}, once: warm.does(noSession, python, hello, helloOut)},
		{name: "fresh sandbox, empty pool" + suffix, baseline: bare, goal: goal{plus: 80 * time.Millisecond}, once: cold.does(noSession, python, hello, helloOut)},
		{name: "live session" + suffix, baseline: bare, goal: goal{times: 0.5}, once: warm.does(session, python, hello, helloOut)},
		{name: "fresh sandbox, data libraries, warm pool" + suffix, baseline: bareData, goal: goal{times: 0.1}, once: warm.does(noSession, python, data, helloOut)},
		{name: "fresh sandbox, data libraries, empty pool" + suffix, baseline: bareData, goal: goal{plus: 160 * time.Millisecond}, once: cold.does(noSession, python, data, helloOut)},
		{name: "fresh sandbox, bash, warm pool" + suffix, baseline: bareShell, goal: goal{times: 2, plus: 3 * time.Millisecond}, once: warm.does(noSession, bash, shell, shellOut)},
		{name: "live session, bash" + suffix, baseline: bareShell, once: warm.does(session, bash, shell, shellOut)},
		{name: "live session, data libraries" + suffix, baseline: bareData, once: warm.does(session, python, data, helloOut)},
	}
}

func startCold(binary, dir, name string) (*server, error) {
	return start(binary, filepath.Join(dir, name), "--pool-size", "0", "--pool-data-size", "0")
}

// build is another program's servers.
type build struct {
	warm, cold *server
	session    string
}

func startOther(binary, dir string) (b build, stop func(), err error) {
	if b.warm, err = start(binary, filepath.Join(dir, "other-warm")); err != nil {
		return b, nil, err
	}
	if b.cold, err = startCold(binary, dir, "other-cold"); err != nil {
		b.warm.stop()
		return b, nil, err
	}
	stop = func() {
		b.cold.stop()
		b.warm.stop()
	}
	if b.session, err = b.warm.session(); err != nil {
		stop()
		return b, nil, err
	}
	return b, stop, nil
}

// settle is how long the machine is left alone before each measurement: a run in a
// session has an interpreter started for the next one when it is over.
const settle = 150 * time.Millisecond

// takeTurns measures the variants one after the other, in every second round the
// other way around, so that what one leaves to do does not always fall on the same.
// Before each the pools are full again, and the machine has settled.
func takeTurns(variants []*variant, rounds int, ready func() error) error {
	pairs := make([][]*variant, 0, len(variants))
	paired := map[*variant]bool{}
	for _, v := range variants {
		if v.other != nil {
			paired[v.other] = true
		}
	}
	for _, v := range variants {
		switch {
		case v.other != nil:
			pairs = append(pairs, []*variant{v, v.other})
		case !paired[v]:
			pairs = append(pairs, []*variant{v})
		}
	}
	for round := range rounds + 1 {
		for _, pair := range pairs {
			for _, v := range pair {
				if err := ready(); err != nil {
					return fmt.Errorf("%s: %w", v.name, err)
				}
				time.Sleep(settle)
				began := time.Now()
				if err := v.once(); err != nil {
					return fmt.Errorf("%s: %w", v.name, err)
				}
				if round > 0 { // the first round warms caches and connections
					v.times = append(v.times, time.Since(began))
				}
			}
			slices.Reverse(pair)
		}
		progress("round %d of %d", round, rounds)
	}
	fmt.Fprintln(os.Stderr)
	return nil
}

// progress overwrites one line on standard error.
func progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, "\r\033[K"+format, args...)
}

func ms(d time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(time.Millisecond), 'f', 1, 64) + " ms"
}

func ratioText(d, base time.Duration) string {
	return strconv.FormatFloat(float64(d)/float64(base), 'f', 2, 64)
}

func quantile(d []time.Duration, q float64) time.Duration {
	s := slices.Sorted(slices.Values(d))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

func command(want, name string, args ...string) func() error {
	return func() error {
		out, err := exec.Command(name, args...).Output()
		if err != nil {
			return err
		}
		return check(string(out), want)
	}
}

func check(out, want string) error {
	if out != want {
		return fmt.Errorf("the output is %q, not %q", out, want)
	}
	return nil
}

// overhead measures what a request costs beyond the run itself: the client's
// time less the run's duration as the record has it, which is exact to a
// millisecond, and the server's CPU time.
func (s *server) overhead(session string, rounds int) error {
	before, err := s.cpu()
	if err != nil {
		return err
	}
	var beyond []time.Duration
	for range rounds {
		began := time.Now()
		duration, err := s.execute(session, python, hello, helloOut)
		if err != nil {
			return err
		}
		beyond = append(beyond, time.Since(began)-duration)
	}
	after, err := s.cpu()
	if err != nil {
		return err
	}
	fmt.Printf("\nA request in a session takes the client %s longer than the run lasts (median; goal 1 ms), and %s of the daemon's CPU time (goal 2 ms).\n",
		ms(quantile(beyond, 0.5)), ms((after-before)/time.Duration(rounds)))
	return nil
}
