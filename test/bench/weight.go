package main

import (
	"bytes"
	"fmt"
	"io"
	"mime/multipart"
	"net/http"
	"time"
)

const idleFor = 10 * time.Second

// idleCPUWith is with how many idle sandboxes their CPU is measured.
const idleCPUWith = 200

// weight measures what idle live sandboxes cost in memory and CPU.
func weight(o options, s *server) error {
	fmt.Printf("\n## Weight of idle live sandboxes\n\n| what | memory each | goal | CPU of all, of one core | goal |\n|---|---:|---|---:|---|\n")
	for _, load := range []struct {
		name, code string
		sessions   int
		goal       float64 // MiB
	}{
		{"bare", hello, o.sessions, 22},
		{"data libraries loaded", data, max(o.sessions/50, 1), 95},
	} {
		if err := s.weigh(load.name, load.code, load.sessions, load.goal); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) weigh(name, code string, n int, goal float64) error {
	// What the row before has left is gone, and the stock does not grow by itself.
	if err := s.full(); err != nil {
		return err
	}
	before, err := s.memory()
	if err != nil {
		return err
	}
	lived, err := s.metric("agentsandbox_sandboxes_live")
	if err != nil {
		return err
	}
	var sessions []string
	defer func() {
		for _, id := range sessions {
			s.delete(id)
		}
	}()
	cpu, measured := "", 0
	for i := range n {
		id, err := s.session()
		if err != nil {
			return err
		}
		sessions = append(sessions, id)
		if _, err := s.execute(id, python, code, helloOut); err != nil {
			return err
		}
		progress("session %d of %d", i+1, n)
		if i+1 == min(n, idleCPUWith) {
			measured = i + 1
			used, err := s.idleCPU(measured)
			if err != nil {
				return err
			}
			cpu = fmt.Sprintf("%.1f %%, of %d", used, measured)
		}
	}
	if err := s.full(); err != nil {
		return err
	}
	after, err := s.memory()
	if err != nil {
		return err
	}
	live, err := s.metric("agentsandbox_sandboxes_live")
	if err != nil {
		return err
	}
	for _, id := range sessions {
		if _, err := s.execute(id, python, hello, helloOut); err != nil {
			return fmt.Errorf("an idle session does not answer: %w", err)
		}
	}
	progress("")
	// The stock has grown with the demand. Its sandboxes are bare, so with the data
	// libraries this is too little by as much as the stock has grown.
	each := float64(after-before) / (live - lived) / (1 << 20)
	verdict := "met"
	if each > goal {
		verdict = fmt.Sprintf("missed, %.2f of it", each/goal)
	}
	cpuGoal := ""
	if measured == idleCPUWith {
		cpuGoal = "under 2 %"
	}
	fmt.Printf("| %d sessions, %s; each answers again | %.1f MiB | %.0f MiB: %s | %s | %s |\n", n, name, each, goal, verdict, cpu, cpuGoal)
	return nil
}

// idleCPU measures what n sandboxes use while nothing is asked of them, in percent
// of one core: their part of what all use, the stock included.
func (s *server) idleCPU(n int) (float64, error) {
	if err := s.full(); err != nil {
		return 0, err
	}
	live, err := s.metric("agentsandbox_sandboxes_live")
	if err != nil {
		return 0, err
	}
	time.Sleep(5 * time.Second) // what a run leaves to do is over
	before, err := s.sandboxCPU()
	if err != nil {
		return 0, err
	}
	time.Sleep(idleFor)
	after, err := s.sandboxCPU()
	return 100 * float64(after-before) / float64(idleFor) * float64(n) / live, err
}

// transfer measures the upload and the download of one large file.
func transfer(o options, s *server) error {
	before, err := s.resident()
	if err != nil {
		return err
	}
	size := int64(o.transferMB) << 20
	var head bytes.Buffer
	form := multipart.NewWriter(&head)
	if _, err := form.CreateFormFile("file", "big.bin"); err != nil {
		return err
	}
	tail := bytes.NewReader([]byte("\r\n--" + form.Boundary() + "--\r\n"))
	began := time.Now()
	var up struct {
		ID string `json:"file_id"`
	}
	body := io.MultiReader(&head, io.LimitReader(zeros{}, size), tail)
	if err := s.do(http.MethodPost, "/v1/files", form.FormDataContentType(), body, &up); err != nil {
		return err
	}
	uploaded := time.Since(began)
	began = time.Now()
	if got, err := s.download(up.ID); err != nil || got != size {
		return fmt.Errorf("%d of %d bytes came back: %w", got, size, err)
	}
	downloaded := time.Since(began)
	after, err := s.resident()
	if err != nil {
		return err
	}
	rate := func(d time.Duration) float64 { return float64(size) / 1e6 / d.Seconds() }
	fmt.Printf("\n## Transfer of %d MiB\n\nUpload %.0f MB/s, download %.0f MB/s (goal 400 each); the daemon's memory grew by %.0f MiB.\n",
		o.transferMB, rate(uploaded), rate(downloaded), float64(after-before)/(1<<20))
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
