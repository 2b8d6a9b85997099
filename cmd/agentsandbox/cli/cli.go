// Package cli owns the command line: the verbs, their flags and help, what they
// print, and their exit statuses. One file holds one verb.
//
// The verbs that use a server hold an [agentsandbox.Service] and do not know
// what is behind it; those that act on this machine (serve, templates, doctor)
// get what they need through [Local], so that the package links neither gVisor
// nor a database. Nothing here ends the process: [Main] returns the exit status.
//
// It fails with one sentence on standard error that says what to do, and with
// status 1; a command line that makes no sense is status 2, an interrupted verb
// 130. run and exec pass the status of the code on, and use 125 for whatever
// went wrong before there was one.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"golang.org/x/sys/unix"

	"github.com/agentsandbox/agentsandbox"
)

// Exit statuses. A run of code has its own.
const (
	exitOK          = 0
	exitFailure     = 1
	exitUsage       = 2
	exitNoRun       = 125 // run and exec: there is no status of the code's
	exitInterrupted = 130 // as a shell has it for SIGINT
)

// World is what surrounds the process.
type World struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// StdoutTerminal and StderrTerminal say who reads: a person at a terminal,
	// for whom bytes are made harmless and progress is shown, or a program.
	StdoutTerminal, StderrTerminal bool
	Getenv                         func(string) string
	Environ                        func() []string // nil: nothing is set
	UID                            int
	Now                            func() time.Time
}

// Process is the world of this process.
func Process() World {
	return World{
		Stdin:          os.Stdin,
		Stdout:         os.Stdout,
		Stderr:         os.Stderr,
		StdoutTerminal: isTerminal(os.Stdout),
		StderrTerminal: isTerminal(os.Stderr),
		Getenv:         os.Getenv,
		Environ:        os.Environ,
		UID:            os.Getuid(),
		Now:            time.Now,
	}
}

func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// grammar is the whole command line.
type grammar struct {
	Help helpFlag `short:"h" help:"Show help, and examples, for the program or one of its verbs."`

	Run        runCommand        `cmd:"" group:"Run code:" help:"Run a file, or standard input, in a sandbox."`
	Exec       execCommand       `cmd:"" group:"Run code:" help:"Run a shell command in a session."`
	MCP        mcpCommand        `cmd:"" name:"mcp" group:"Run code:" help:"Serve the sandbox to agents as tools of the Model Context Protocol."`
	Sessions   sessionsCommand   `cmd:"" group:"Look after what the server keeps:" help:"Make, use and delete sessions."`
	Ports      portsCommand      `cmd:"" group:"Look after what the server keeps:" help:"Give ports of sessions a URL."`
	Forward    forwardCommand    `cmd:"" group:"Look after what the server keeps:" help:"Bring a port of a session to this machine."`
	Files      filesCommand      `cmd:"" group:"Look after what the server keeps:" help:"Upload, download and delete files."`
	Executions executionsCommand `cmd:"" group:"Look after what the server keeps:" help:"Look at the records of executions."`
	Keys       keysCommand       `cmd:"" group:"Look after what the server keeps:" help:"Make and revoke API keys."`
	Audit      auditCommand      `cmd:"" group:"Look after what the server keeps:" help:"Show and check the audit log."`
	Serve      serveCommand      `cmd:"" group:"This machine:" help:"Start the server."`
	Templates  templatesCommand  `cmd:"" group:"This machine:" help:"Build and look at the templates of this machine."`
	Doctor     doctorCommand     `cmd:"" group:"This machine:" help:"Tell whether this machine can run sandboxes, and what is missing."`
	Version    versionCommand    `cmd:"" group:"This machine:" help:"Show the version of this program."`
}

const description = `Runs Python and Bash of AI agents in isolated sandboxes.

"agentsandbox serve" starts the server; the other verbs use it. Each verb has its own --help with examples.`

// app is what a verb gets to work with.
type app struct {
	World
	ctx   context.Context
	local Local
	// keyHint says where the key comes from, for when it is refused.
	keyHint string
}

// Main runs one command line, without the program's name in front, and returns
// its exit status. The end of ctx interrupts the verb.
func Main(ctx context.Context, args []string, world World, local Local) int {
	var g grammar
	g.prepare()
	parser, err := newParser(&g, world)
	if err != nil {
		(&app{World: world}).note("%s", err)
		return exitFailure
	}
	args = usual(args)
	parsed, err := parser.Parse(args)
	if errors.Is(err, errHelpShown) {
		return exitOK
	}
	if err != nil {
		return usageError(world, args, err)
	}
	a := &app{World: world, ctx: ctx, local: local}
	err = parsed.Run(a)
	return a.exitStatus(verbOf(args), err)
}

// usual puts the grammar's words for those that many programs know: nothing or
// help for --help, --version for version.
func usual(args []string) []string {
	switch {
	case len(args) == 0:
		return []string{"--help"}
	case args[0] == "help":
		return append(slices.Clone(args[1:]), "--help")
	case len(args) == 1 && args[0] == "--version":
		return []string{"version"}
	}
	return args
}

// prepare makes the flags that come from the table of settings.
func (g *grammar) prepare() {
	g.Serve.prepare()
	g.Templates.prepare()
	g.Doctor.prepare()
	g.Audit.Verify.prepare()
}

func newParser(g *grammar, world World) (*kong.Kong, error) {
	return kong.New(g,
		kong.Name("agentsandbox"),
		kong.Description(description),
		kong.NoDefaultHelp(),
		kong.ConfigureHelp(kong.HelpOptions{Compact: true, WrapUpperBound: 100}),
		kong.Writers(world.Stdout, world.Stderr),
		kong.KindMapper(reflect.String, exactString{}),
		// Parsing never ends the process; kong would only do so for its own
		// help flag, which is not used.
		kong.Exit(func(int) {}),
	)
}

// exactString takes an argument byte for byte. The parser's own way goes through
// JSON, which replaces what is not UTF-8: a path would become another path.
type exactString struct{}

// Decode takes one argument.
func (exactString) Decode(ctx *kong.DecodeContext, target reflect.Value) error {
	token, err := ctx.Scan.PopValue("string")
	if err != nil {
		return err
	}
	text, ok := token.Value.(string)
	if !ok {
		return fmt.Errorf("expected text, not %v", token.Value)
	}
	target.SetString(text)
	return nil
}

var errHelpShown = errors.New("help was shown")

// helpFlag shows help and stops the parser, wherever it stands.
type helpFlag bool

// IgnoreDefault tells the parser to run the hook only if the flag is given.
func (helpFlag) IgnoreDefault() {}

// BeforeReset runs before the parser complains of what is missing.
func (helpFlag) BeforeReset(ctx *kong.Context) error {
	if err := ctx.PrintUsage(false); err != nil {
		return err
	}
	return errHelpShown
}

// verbOf returns the verb that a command line starts with.
func verbOf(args []string) string {
	for _, arg := range args {
		if !strings.HasPrefix(arg, "-") {
			return arg
		}
	}
	return ""
}

func runsCode(verb string) bool { return verb == "run" || verb == "exec" }

func usageError(world World, args []string, err error) int {
	verb := ""
	var parse *kong.ParseError
	if errors.As(err, &parse) && parse.Context != nil {
		if node := parse.Context.Selected(); node != nil {
			verb = " " + strings.TrimPrefix(node.FullPath(), "agentsandbox ")
		}
	}
	a := &app{World: world}
	a.note("%s", err)
	if verb == "" && strings.HasPrefix(args[0], "-") {
		a.note("Flags stand behind the verb, as in \"agentsandbox run hello.py --server URL\".")
	}
	a.note("Run \"agentsandbox%s --help\" for how to use it.", verb)
	if runsCode(verbOf(args)) {
		return exitNoRun
	}
	return exitUsage
}

// codeStatus is the exit status of code that ran: no failure of ours, and
// nothing to print.
type codeStatus int

func (s codeStatus) Error() string { return fmt.Sprintf("the code ended with status %d", int(s)) }

// exitStatus reports an error, and returns the status that goes with it.
func (a *app) exitStatus(verb string, err error) int {
	var code codeStatus
	switch {
	case err == nil:
		return exitOK
	case errors.As(err, &code):
		return int(code)
	}
	for _, line := range explain(err) {
		a.note("%s", line)
	}
	if a.keyHint != "" && agentsandbox.CodeOf(err) == agentsandbox.CodeUnauthorized {
		a.note("%s", a.keyHint)
	}
	switch {
	case a.ctx.Err() != nil && errors.Is(err, a.ctx.Err()):
		return exitInterrupted
	case runsCode(verb):
		return exitNoRun
	}
	return exitFailure
}

// note tells the person something on standard error, in one line. When that
// cannot be written either, nobody is left to tell.
func (a *app) note(format string, args ...any) {
	_, _ = fmt.Fprintf(a.Stderr, "agentsandbox: %s\n", neutral(fmt.Sprintf(format, args...)))
}
