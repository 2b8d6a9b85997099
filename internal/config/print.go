package config

import (
	"fmt"
	"io"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v2"
)

// Print writes every setting with where its value came from, in the form of a
// configuration file, group by group. Secrets, and settings that are off, stand
// in comments.
func (r Resolved) Print(w io.Writer) error {
	var out strings.Builder
	group := ""
	for _, s := range Settings() {
		if s.Group != group {
			if group != "" {
				out.WriteString("\n")
			}
			group = s.Group
			fmt.Fprintf(&out, "# %s\n", group)
		}
		text, err := r.line(s)
		if err != nil {
			return err
		}
		fmt.Fprintf(&out, "%-40s # %s\n", text, strings.ReplaceAll(string(r.Origins[s.Name]), "\n", "?"))
	}
	if _, err := io.WriteString(w, out.String()); err != nil {
		return fmt.Errorf("print the configuration: %w", err)
	}
	return nil
}

func (r Resolved) line(s Setting) (string, error) {
	text := s.bind(&r.Config).text()
	if text == "" {
		text = "(not set)"
	}
	if s.EnvOnly || text == "(not set)" {
		return fmt.Sprintf("# %s: %s", s.Name, text), nil
	}
	quoted, err := yaml.Marshal(text)
	if err != nil {
		return "", fmt.Errorf("print %s: %w", s.Name, err)
	}
	plain := strings.TrimSuffix(string(quoted), "\n")
	if strings.Contains(plain, "\n") {
		plain = strconv.QuoteToASCII(text) // a block would leave no room for the origin
	}
	if unquoted := strings.Trim(plain, `"`); isNumber(s) && unquoted == text {
		plain = text
	}
	return s.Name + ": " + plain, nil
}

// isNumber tells whether the values of a setting are numbers, which the file
// has without quotes.
func isNumber(s Setting) bool {
	switch s.bind(new(Config)).(type) {
	case number[int], number[int64], fraction:
		return true
	}
	return false
}
