package edge

import (
	"mime"
	"strings"
	"testing"
)

func TestContentDisposition(t *testing.T) {
	for _, name := range []string{
		"plain.txt", "two words.txt", "ünï.txt", "漢字.png", `quote".txt`, `back\slash`, "new\nline", "c\r\nX-Evil: 1", "tab\t",
		"per%41cent", "semi;colon=", "\u202egpj.exe", strings.Repeat("é", 200), "🙂", "'single'", "", "..",
	} {
		value := contentDisposition(name)
		for _, b := range []byte(value) {
			if b < ' ' || b > '~' {
				t.Fatalf("%q: byte %#x in %q", name, b, value)
			}
		}
		kind, params, err := mime.ParseMediaType(value)
		want := name
		if name == "" {
			want = "."
		}
		if err != nil || kind != "attachment" || params["filename"] != want {
			t.Errorf("%q became %s, read as %q (%v)", name, value, params["filename"], err)
		}
	}
	if got := contentDisposition("out/deep/a\xff.csv"); got != `attachment; filename="a_.csv"; filename*=UTF-8''a%EF%BF%BD.csv` {
		t.Error(got)
	}
}
