package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/client"
)

// executionFlags are what run and exec have in common.
type executionFlags struct {
	Env            []string          `short:"e" sep:"none" placeholder:"NAME=VALUE" help:"Set an environment variable for this execution; NAME alone passes on the value that it has here. Can be repeated."`
	File           []string          `short:"f" sep:"none" placeholder:"PATH" help:"Copy a local file to /workspace first, or a directory under its name. Can be repeated."`
	FileID         []string          `sep:"none" placeholder:"ID" help:"Copy an uploaded file to /workspace first. Can be repeated."`
	Timeout        time.Duration     `short:"t" placeholder:"DURATION" help:"End the execution after this long, such as 90s or 5m. The server's default otherwise."`
	CPUTime        time.Duration     `placeholder:"DURATION" help:"End the execution when its processes together have used so much CPU time, such as 10s."`
	Metadata       map[string]string `mapsep:"none" placeholder:"NAME=VALUE" help:"Note to keep with the record of the execution. Can be repeated."`
	IdempotencyKey string            `placeholder:"KEY" help:"Have one effect however often this is run with the same key within 24 hours; needs the same code and flags each time."`
	CollectIgnored *bool             `negatable:"" help:"Keep the files of tools, too, such as .git, node_modules and virtual environments. The session's setting otherwise."`
	OutputDir      string            `short:"o" placeholder:"DIR" help:"Download the files that the execution made or changed into this directory."`
	Overwrite      bool              `help:"Let --output-dir replace files that are already there."`
	jsonFlag
}

// uploadCleanup bounds the deletion of what was uploaded for one execution,
// which goes on when the execution is interrupted.
const uploadCleanup = 10 * time.Second

// execute runs code with the flags, prints what it printed, and returns its
// status as a codeStatus.
func (a *app) execute(service agentsandbox.Service, req agentsandbox.ExecuteRequest, flags executionFlags) error {
	var err error
	if req.Env, err = environment(flags.Env, a.Getenv); err != nil {
		return err
	}
	if req.TimeoutMS, err = milliseconds("--timeout", flags.Timeout); err != nil {
		return err
	}
	if req.CPUTimeMS, err = milliseconds("--cpu-time", flags.CPUTime); err != nil {
		return err
	}
	uploaded, err := a.uploadInputs(service, flags.File)
	defer a.deleteInputs(service, uploaded)
	if err != nil {
		return err
	}
	req.FileIDs = append(uploaded, flags.FileID...)
	req.Metadata, req.CollectIgnored = flags.Metadata, flags.CollectIgnored
	ctx := a.ctx
	if flags.IdempotencyKey != "" {
		if err := agentsandbox.ValidateIdempotencyKey(flags.IdempotencyKey); err != nil {
			return err
		}
		if len(flags.File) > 0 {
			return errors.New("--idempotency-key cannot be used with --file, which uploads the file anew each time: upload it once and use --file-id")
		}
		ctx = client.WithIdempotencyKey(ctx, flags.IdempotencyKey)
	}
	result, err := service.Execute(ctx, req)
	if err != nil {
		return err
	}
	if err := a.show(result, flags.JSON); err != nil {
		return err
	}
	if flags.OutputDir != "" {
		// The status stays the code's own.
		if err := a.saveAll(service, flags.OutputDir, result.Files, flags.Overwrite); err != nil {
			for _, line := range explain(err) {
				a.note("%s", line)
			}
		}
	}
	return statusOf(result)
}

// show prints the output of an execution byte for byte, and on standard error
// what the output does not say.
func (a *app) show(e *agentsandbox.Execution, asJSON bool) error {
	if asJSON {
		if err := a.printJSON(viewOfExecution(*e, true)); err != nil {
			return err
		}
	} else {
		if _, err := a.Stdout.Write(e.Stdout); err != nil {
			return fmt.Errorf("write standard output: %w", err)
		}
		if _, err := a.Stderr.Write(e.Stderr); err != nil {
			return fmt.Errorf("write standard error: %w", err)
		}
	}
	if sentence := endings[e.Status]; sentence != "" {
		a.note("%s (%s)", sentence, e.ID)
	}
	if e.SessionStatus == agentsandbox.SessionLost {
		a.note("The session %s was lost with its sandbox.", e.SessionID)
	}
	// What was lost, and what was refused to a run that failed, stands on the standard
	// error of the run, which was printed unless it is in the JSON.
	if e.Truncated && asJSON {
		a.note("The output was cut: the code wrote %d bytes to stdout and %d to stderr.", e.StdoutBytes, e.StderrBytes)
	}
	if lost := e.LostText(); lost != "" && asJSON {
		a.note("%s.", lost)
	}
	if refused := refusals(e); refused != "" && (asJSON || e.Status == agentsandbox.StatusSucceeded) {
		a.note("The network refused %s.", refused)
	}
	return nil
}

// refusals says in a line what the network refused to an execution; empty: nothing.
func refusals(e *agentsandbox.Execution) string {
	var b strings.Builder
	for i, r := range e.NetworkRefused {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(r.Host)
		if r.Port != 0 {
			fmt.Fprintf(&b, " port %d", r.Port)
		}
		fmt.Fprintf(&b, " (%s)", r.Rule)
	}
	if e.NetworkRefusedOmitted > 0 {
		fmt.Fprintf(&b, ", and %d times something else", e.NetworkRefusedOmitted)
	}
	return b.String()
}

// endings say how an execution ended where its output and status do not.
var endings = map[agentsandbox.Status]string{
	agentsandbox.StatusTimedOut:       "The execution was ended at its time limit; --timeout, or --cpu-time, gives it longer.",
	agentsandbox.StatusMemoryExceeded: "The execution was ended because it needed more memory than it has; --memory-mb of run, or of sessions create, gives it more.",
	agentsandbox.StatusProcessLimit:   "The execution reached the limit of processes; --processes of run, or of sessions create, sets it.",
	agentsandbox.StatusDiskFull:       "The execution filled the disk of its sandbox; --disk-mb and --inodes of run, or of sessions create, give it more.",
	agentsandbox.StatusOutputLimit:    "The execution wrote more output than is allowed.",
	agentsandbox.StatusCancelled:      "The execution was cancelled.",
	agentsandbox.StatusSandboxLost:    "The sandbox died under the execution; it is safe to try again.",
}

// statusOf turns the end of an execution into an exit status: the code's own,
// if the code had a say in it.
func statusOf(e *agentsandbox.Execution) error {
	switch e.Status {
	case agentsandbox.StatusSandboxLost, agentsandbox.StatusCancelled:
		return codeStatus(exitNoRun)
	case agentsandbox.StatusFailed, agentsandbox.StatusTimedOut, agentsandbox.StatusMemoryExceeded:
		if e.ReturnCode == 0 {
			return impossible(e) // and must not look like success
		}
	}
	switch {
	case e.ReturnCode == 0:
		return nil
	case e.ReturnCode < 0 || e.ReturnCode > 255:
		return impossible(e) // cut to eight bits it would be another one
	}
	return codeStatus(e.ReturnCode)
}

func impossible(e *agentsandbox.Execution) error {
	return fmt.Errorf("the execution %s ended as %s with the impossible return code %d", e.ID, e.Status, e.ReturnCode)
}

// environment reads NAME=VALUE pairs, and names whose value is taken from here.
func environment(pairs []string, getenv func(string) string) (map[string]string, error) {
	if len(pairs) == 0 {
		return nil, nil
	}
	env := make(map[string]string, len(pairs))
	for _, pair := range pairs {
		name, value, ok := strings.Cut(pair, "=")
		if name == "" {
			return nil, fmt.Errorf("--env %s: must be NAME=VALUE, or the NAME of a variable that is set here", pair)
		}
		if !ok {
			if value = getenv(name); value == "" {
				return nil, fmt.Errorf("--env %s: is not set here; write %s=VALUE", name, name)
			}
		}
		env[name] = value
	}
	return env, agentsandbox.ValidateEnv(env)
}

// milliseconds turns a flag into milliseconds; one below a millisecond is one,
// not none.
func milliseconds(flag string, d time.Duration) (int64, error) {
	if d < 0 {
		return 0, fmt.Errorf("%s %s: must not be negative", flag, d)
	}
	return int64(math.Ceil(float64(d) / float64(time.Millisecond))), nil
}

// uploadInputs uploads local files, and those of directories, and returns their
// ids, those before an error included.
func (a *app) uploadInputs(service agentsandbox.Service, paths []string) ([]string, error) {
	var ids []string
	seen := make(map[string]string)
	for _, path := range paths {
		files, err := localFiles(path, "")
		if err != nil {
			return ids, err
		}
		for _, f := range files {
			if other, ok := seen[f.place]; ok {
				return ids, fmt.Errorf("--file %s and --file %s would both be /workspace/%s; rename one", other, f.local, f.place)
			}
			seen[f.place] = f.local
			file, err := a.upload(service, f.local, f.as())
			if err != nil {
				return ids, err
			}
			ids = append(ids, file.ID)
		}
	}
	return ids, nil
}

// upload sends one local file.
func (a *app) upload(service agentsandbox.Service, path string, as agentsandbox.FileUpload) (*agentsandbox.File, error) {
	f, size, err := openLocal(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	body := a.progress(f, path, size)
	file, err := service.UploadFile(a.ctx, as, body)
	body.done()
	if err != nil {
		return nil, fmt.Errorf("upload %s: %w", path, err)
	}
	return file, nil
}

// openLocal opens a file of this machine to send it.
func openLocal(path string) (*os.File, int64, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, 0, err
	}
	info, err := f.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = &fs.PathError{Op: "upload", Path: path, Err: errors.New("is not a regular file")}
	}
	if err != nil {
		f.Close()
		return nil, 0, err
	}
	return f, info.Size(), nil
}

// deleteInputs deletes what was uploaded for one execution; the copies in the
// sandbox stay.
func (a *app) deleteInputs(service agentsandbox.Service, ids []string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(a.ctx), uploadCleanup)
	defer cancel()
	for _, id := range ids {
		if err := service.DeleteFile(ctx, id); err != nil {
			a.note("The uploaded file %s could not be deleted again: %v", id, err)
		}
	}
}
