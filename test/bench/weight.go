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

// weight measures what idle live sandboxes cost in memory and CPU.
func weight(o options, s *server) error {
	fmt.Printf("\n## Weight of idle live sandboxes\n\n| what | memory each | CPU of all, of one core |\n|---|---:|---:|\n")
	for _, load := range []struct {
		name, code string
		sessions   int
	}{
		{"bare", hello, o.sessions},
		{"data libraries loaded", data, max(o.sessions/10, 1)},
	} {
		if err := s.weigh(load.name, load.code, load.sessions); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) weigh(name, code string, n int) error {
	before, err := s.memory()
	if err != nil {
		return err
	}
	var sessions []string
	defer func() {
		for _, id := range sessions {
			s.delete(id)
		}
	}()
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
	}
	if err := s.full(); err != nil {
		return err
	}
	time.Sleep(time.Second) // what a run leaves to do is over
	after, err := s.memory()
	if err != nil {
		return err
	}
	cpu, err := s.sandboxCPU()
	if err != nil {
		return err
	}
	time.Sleep(idleFor)
	later, err := s.sandboxCPU()
	if err != nil {
		return err
	}
	for _, id := range sessions {
		if _, err := s.execute(id, python, hello, helloOut); err != nil {
			return fmt.Errorf("an idle session does not answer: %w", err)
		}
	}
	progress("")
	fmt.Printf("| %d sessions, %s | %.1f MiB | %.1f %% |\n", n, name, float64(after-before)/float64(n)/(1<<20),
		100*float64(later-cpu)/float64(idleFor))
	return nil
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
	fmt.Printf("\n## Transfer of %d MiB\n\nUpload %.0f MB/s, download %.0f MB/s; the daemon's memory grew by %.0f MiB.\n",
		o.transferMB, rate(uploaded), rate(downloaded), float64(after-before)/(1<<20))
	return nil
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
