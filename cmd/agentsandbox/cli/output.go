package cli

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"
	"unicode"
	"unicode/utf8"
)

// jsonFlag belongs to every verb that prints data.
type jsonFlag struct {
	JSON bool `help:"Print JSON, with the fields of the API."`
}

// risky tells whether a character could drive a terminal or disguise the text
// around it: controls, and marks that change the direction of text.
func risky(r rune) bool {
	return unicode.IsControl(r) || r == '\u2028' || r == '\u2029' || unicode.Is(unicode.Bidi_Control, r)
}

// neutral makes a text from outside safe to show in one line: what is risky, or
// no UTF-8, is shown as an escape.
func neutral(s string) string {
	if utf8.ValidString(s) && !strings.ContainsFunc(s, risky) {
		return s
	}
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		writeNeutral(&b, r, s[:size])
		s = s[size:]
	}
	return b.String()
}

func writeNeutral(b *strings.Builder, r rune, raw string) {
	switch {
	case r == utf8.RuneError && len(raw) == 1:
		fmt.Fprintf(b, `\x%02x`, raw[0])
	case risky(r):
		quoted := strconv.QuoteRuneToASCII(r)
		b.WriteString(quoted[1 : len(quoted)-1])
	default:
		b.WriteString(raw)
	}
}

// neutralLines is neutral for a text of several lines, whose ends and tabs stay.
func neutralLines(s string) string {
	var b strings.Builder
	for len(s) > 0 {
		r, size := utf8.DecodeRuneInString(s)
		if r == '\n' || r == '\t' {
			b.WriteRune(r)
		} else {
			writeNeutral(&b, r, s[:size])
		}
		s = s[size:]
	}
	return b.String()
}

// neutralWriter makes what passes through it safe for a terminal; line ends and
// tabs stay.
type neutralWriter struct {
	w    io.Writer
	part []byte // the start of a character whose rest has not come yet
}

func (n *neutralWriter) Write(p []byte) (int, error) {
	data := append(n.part, p...)
	whole := len(data)
	for i := max(0, len(data)-utf8.UTFMax+1); i < len(data); i++ {
		if utf8.RuneStart(data[i]) && !utf8.FullRune(data[i:]) {
			whole = i
			break
		}
	}
	n.part = bytes.Clone(data[whole:])
	if _, err := io.WriteString(n.w, neutralLines(string(data[:whole]))); err != nil {
		return 0, err
	}
	return len(p), nil
}

// Close shows what was left of a character that never ended.
func (n *neutralWriter) Close() error {
	_, err := io.WriteString(n.w, neutral(string(n.part)))
	n.part = nil
	return err
}

// copyOut writes bytes from outside to standard output: as they are for a
// program, made harmless for a terminal.
func (a *app) copyOut(r io.Reader) error {
	if !a.StdoutTerminal {
		_, err := io.Copy(a.Stdout, r)
		return err
	}
	w := &neutralWriter{w: a.Stdout}
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	return w.Close()
}

// printJSON writes v, indented. Characters that JSON allows and a terminal may
// act on are escaped, which does not change what the JSON says.
func (a *app) printJSON(v any) error {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		return fmt.Errorf("print JSON: %w", err)
	}
	var out strings.Builder
	for _, r := range buf.String() {
		if r != '\n' && risky(r) {
			fmt.Fprintf(&out, `\u%04x`, r) // all of them are below U+10000
		} else {
			out.WriteRune(r)
		}
	}
	return a.print(out.String())
}

// printTable writes rows under a header; an empty cell is shown as "-".
func (a *app) printTable(header []string, rows [][]string) error {
	all := [][]string{header}
	for _, row := range rows {
		shown := make([]string, len(row))
		for i, cell := range row {
			if shown[i] = cell; cell == "" {
				shown[i] = "-"
			}
		}
		all = append(all, shown)
	}
	return a.printAligned(all)
}

// printAligned writes rows with their columns aligned and each cell neutralised.
func (a *app) printAligned(rows [][]string) error {
	var b strings.Builder
	w := tabwriter.NewWriter(&b, 0, 0, 3, ' ', 0)
	for _, row := range rows {
		cells := make([]string, len(row))
		for i, cell := range row {
			cells[i] = neutral(cell)
		}
		_, _ = io.WriteString(w, strings.Join(cells, "\t")+"\n") // a Builder takes everything
	}
	_ = w.Flush()
	return a.print(b.String())
}

// printFields writes the fields of one thing; a row is a name and a value, and
// those without a value are left out.
func (a *app) printFields(rows [][2]string) error {
	var shown [][]string
	for _, row := range rows {
		if row[1] != "" {
			shown = append(shown, []string{row[0] + ":", row[1]})
		}
	}
	return a.printAligned(shown)
}

// print writes text of ours, which is neutral already.
func (a *app) print(text string) error {
	if _, err := io.WriteString(a.Stdout, text); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	return nil
}

// sizeText shows a size to people; scripts use --json.
func sizeText(bytes int64) string {
	const units = "KMGTPE"
	if bytes < 1024 {
		return strconv.FormatInt(bytes, 10) + " B"
	}
	value, unit := float64(bytes)/1024, 0
	for value >= 1024 && unit < len(units)-1 {
		value /= 1024
		unit++
	}
	return fmt.Sprintf("%.1f %ciB", value, units[unit])
}

func timeText(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return t.UTC().Format(time.RFC3339)
}

// timeOrNil makes a zero time null in JSON.
func timeOrNil(t time.Time) *time.Time {
	if t.IsZero() {
		return nil
	}
	t = t.UTC()
	return &t
}

func millis(ms int64) string { return (time.Duration(ms) * time.Millisecond).String() }

// printIDs writes one id a line, for scripts to read.
func printIDs[T any](a *app, items []T, id func(T) string) error {
	for _, item := range items {
		if err := a.print(neutral(id(item)) + "\n"); err != nil {
			return err
		}
	}
	return nil
}
