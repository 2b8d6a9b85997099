package edge

import "testing"

func TestText(t *testing.T) {
	// The table of the Unicode Standard, and the edges of each length.
	for in, want := range map[string]string{
		"":                                     "",
		"plain é漢🙂":                            "plain é漢🙂",
		"\xff\xfe":                             "��",
		"\xe2\x82":                             "�",
		"\xe2\x82x":                            "�x",
		"\xf0\x9f\x99":                         "�",
		"\xf0\x9f\x99\xe2\x82\xac":             "�€",
		"\xc0\xaf\xe0\x80\xbf\xf0\x81\x82\x41": "��" + "���" + "���" + "A",
		"\xed\xa0\x80\xed\xbf\xbf\xed\xaf\x41": "���" + "���" + "��" + "A",
		"\xf4\x91\x92\x93\xff\x41\x80\xbf\x42": "����" + "�" + "A" + "��" + "B",
		"\xe1\x80\xe2\xf0\x91\x92\xf1\xbf\x41": "�" + "�" + "�" + "�" + "A",
	} {
		if got := Text([]byte(in)); got != want {
			t.Errorf("%x: %q, want %q", in, got, want)
		}
	}
}
