package cli

import (
	"fmt"
	"io"
	"strings"

	"github.com/alecthomas/kong"
)

//go:generate go test -run ^TestReference$ -update .

// Reference returns the reference page of the command line, in Markdown, made
// from the same declarations as the help texts.
func Reference() (string, error) {
	var g grammar
	g.prepare()
	parser, err := newParser(&g, World{Stdout: io.Discard, Stderr: io.Discard})
	if err != nil {
		return "", err
	}
	var b strings.Builder
	b.WriteString(referenceIntro)
	b.WriteString("\n| verb | what it does |\n|---|---|\n")
	for _, verb := range parser.Model.Children {
		fmt.Fprintf(&b, "| [`%s`](#agentsandbox-%s) | %s |\n", verb.Name, verb.Name, verb.Help)
	}
	b.WriteString("\n## Which server\n\nEvery verb that uses a server has these flags:\n")
	writeFlags(&b, parser.Model.Children[0], isConnection)
	for _, verb := range parser.Model.Children {
		writeNode(&b, verb, 2)
	}
	return b.String(), nil
}

const referenceIntro = `# Command line

<!-- Generated from cmd/agentsandbox/cli: run "make generate" after a change there. -->

Every verb has ` + "`--help`" + `. Where a verb prints data, ` + "`--json`" + ` prints it with the fields of the API. Exit statuses: 0 success; 1 failure, with a sentence on standard error; 2 a command line that makes no sense; 130 interrupted. ` + "`run`" + ` and ` + "`exec`" + ` end with the status of the code, and with 125 if there is none.
`

// writeNode writes a verb, and those below it, as sections.
func writeNode(b *strings.Builder, node *kong.Node, level int) {
	fmt.Fprintf(b, "\n%s %s\n\n%s\n", strings.Repeat("#", level), node.FullPath(), node.Help)
	if node.Leaf() {
		fmt.Fprintf(b, "\n    %s\n", usage(node))
	}
	if node.Detail != "" {
		fmt.Fprintf(b, "\n%s\n", node.Detail)
	}
	writeArguments(b, node)
	writeFlags(b, node, func(f *kong.Flag) bool { return !isConnection(f) })
	for _, child := range node.Children {
		writeNode(b, child, level+1)
	}
}

func usage(node *kong.Node) string {
	words := []string{node.FullPath()}
	if len(node.Flags) > 0 {
		words = append(words, "[flags]")
	}
	for _, arg := range node.Positional {
		words = append(words, arg.Summary())
	}
	return strings.Join(words, " ")
}

func writeArguments(b *strings.Builder, node *kong.Node) {
	if len(node.Positional) == 0 {
		return
	}
	b.WriteString("\n| argument | |\n|---|---|\n")
	for _, arg := range node.Positional {
		fmt.Fprintf(b, "| `%s` | %s |\n", arg.Summary(), cell(arg.Help))
	}
}

// isConnection tells whether a flag says which server to use; those are shown once.
func isConnection(f *kong.Flag) bool { return f.Group != nil && f.Group.Title == groupConnection }

func writeFlags(b *strings.Builder, node *kong.Node, shown func(*kong.Flag) bool) {
	var rows strings.Builder
	for _, flag := range node.Flags {
		if !shown(flag) {
			continue
		}
		name := "--" + flag.Name
		if flag.Short != 0 {
			name = "-" + string(flag.Short) + ", " + name
		}
		if !flag.IsBool() {
			name += "=" + flag.FormatPlaceHolder()
		}
		help := flag.Help
		if len(flag.Envs) > 0 {
			help += " In the environment: `" + strings.Join(flag.Envs, "`, `") + "`."
		}
		if flag.HasDefault && !strings.Contains(strings.ToLower(help), "default") {
			help += " Default: `" + flag.Default + "`."
		}
		fmt.Fprintf(&rows, "| `%s` | %s |\n", name, cell(help))
	}
	if rows.Len() > 0 {
		b.WriteString("\n| flag | |\n|---|---|\n" + rows.String())
	}
}

// cell makes a text fit into a table.
func cell(s string) string {
	return strings.NewReplacer("|", `\|`, "\n", " ").Replace(s)
}
