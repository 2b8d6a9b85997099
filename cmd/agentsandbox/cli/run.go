package cli

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// maxSourceBytes bounds what is read of a source file; the server has a limit
// of its own, which is lower.
const maxSourceBytes = 64 << 20

type runCommand struct {
	Source   string  `arg:"" name:"file" help:"File with the code; - for standard input."`
	Language string  `short:"l" placeholder:"LANGUAGE" help:"python or bash. Otherwise the file's name or its first line (#!) tells, and python it is if neither does."`
	Session  *string `short:"s" placeholder:"ID" help:"Run in this session instead of in a sandbox of its own."`
	executionFlags
	limitFlags
	networkFlags
	connection
}

// Help is the text between the summary and the flags.
func (c *runCommand) Help() string {
	return `Prints what the code prints, byte for byte, and ends with the exit status of the code: 124 after a time-out, 128 + N after signal N. Status 125 means that there is none, because the request was refused or the service failed. Files given with --file are deleted from the server afterwards; what --output-dir downloads never leaves that directory, and replaces nothing unless --overwrite is given. A file that cannot be saved there is told of on standard error, and the status stays that of the code. Of a directory given with --file, each file stands below /workspace at its path, but for links and directories of tools (.git, __pycache__, node_modules, virtual environments).

In a session, the memory, CPUs, disk and network are those of the session: they are given to sessions create.

Examples:

    agentsandbox run hello.py
    echo 'print(6 * 7)' | agentsandbox run -
    agentsandbox run report.py --file sales.csv --output-dir out --timeout 5m
    agentsandbox run build.sh --session ses_… -e TOKEN -e MODE=fast
    agentsandbox run fetch.py --allow example.org:443 --memory-mb 512`
}

// Run runs a file.
func (c *runCommand) Run(a *app) error {
	code, err := c.read(a)
	if err != nil {
		return err
	}
	language, err := languageOf(c.Language, c.Source, code)
	if err != nil {
		return err
	}
	session, err := sessionID(c.Session)
	if err != nil {
		return err
	}
	service, err := c.service(a)
	if err != nil {
		return err
	}
	return a.execute(service, agentsandbox.ExecuteRequest{
		Code:       string(code),
		Language:   language,
		SessionID:  session,
		MemoryMB:   c.MemoryMB,
		CPUs:       c.CPUs,
		RunLimits:  c.run(),
		DiskLimits: c.disk(),
		Network:    c.policy(),
	}, c.executionFlags)
}

// sessionID is the session that is asked for; "" if the flag is not given. An empty
// one is no session: as a rule a shell variable that is not set, and the code would
// run in another sandbox than its author thinks.
func sessionID(flag *string) (string, error) {
	switch {
	case flag == nil:
		return "", nil
	case *flag == "":
		return "", errors.New("the id of the session is empty; give one that \"agentsandbox sessions create\" printed")
	}
	return *flag, nil
}

func (c *runCommand) read(a *app) ([]byte, error) {
	input := a.Stdin
	if c.Source != "-" {
		f, err := os.Open(c.Source)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, errors.Join(err, errors.New("Code that is in no file goes to standard input: echo 'print(1)' | agentsandbox run -"))
		}
		if err != nil {
			return nil, err
		}
		defer f.Close()
		input = f
	}
	code, err := io.ReadAll(io.LimitReader(input, maxSourceBytes+1))
	if err != nil {
		return nil, fmt.Errorf("read the code: %w", err)
	}
	if len(code) > maxSourceBytes {
		return nil, errors.New("the code is larger than 64 MiB; give data as a file with --file")
	}
	return code, nil
}

// languageOf finds the language: what the user says, then the file's name, then
// its first line, then python, as the API has it.
func languageOf(flag, path string, code []byte) (agentsandbox.Language, error) {
	switch flag {
	case string(agentsandbox.Python), string(agentsandbox.Bash):
		return agentsandbox.Language(flag), nil
	case "":
	default:
		return "", fmt.Errorf("--language %s: must be python or bash", flag)
	}
	switch strings.ToLower(filepath.Ext(path)) {
	case ".py":
		return agentsandbox.Python, nil
	case ".sh", ".bash":
		return agentsandbox.Bash, nil
	}
	first, _, _ := bytes.Cut(code, []byte("\n"))
	interpreter, ok := interpreterOf(string(first))
	switch {
	case !ok, strings.HasPrefix(interpreter, "python"):
		return agentsandbox.Python, nil
	case interpreter == "bash", interpreter == "sh", interpreter == "dash":
		return agentsandbox.Bash, nil
	}
	return "", fmt.Errorf("the first line asks for %s, and there is python and bash; choose one with --language", interpreter)
}

// interpreterOf returns the name of the program of a "#!" line, that of env's
// argument included.
func interpreterOf(line string) (string, bool) {
	rest, ok := strings.CutPrefix(line, "#!")
	if !ok {
		return "", false
	}
	for _, word := range strings.Fields(rest) {
		name := filepath.Base(word)
		if name != "env" && !strings.HasPrefix(word, "-") && !strings.Contains(word, "=") {
			return name, true
		}
	}
	return "", false
}
