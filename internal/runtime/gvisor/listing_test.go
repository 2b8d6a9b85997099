package gvisor

import (
	"encoding/binary"
	"slices"
	"testing"
)

// entries lays out names as the two system calls do.
func entries(nameAt int, names ...string) []byte {
	var list []byte
	for _, name := range names {
		entry := make([]byte, (nameAt+len(name)+2+7)&^7)
		binary.NativeEndian.PutUint16(entry[16:], uint16(len(entry)))
		copy(entry[nameAt:], name)
		list = append(list, entry...)
	}
	return list
}

func TestDropScripts(t *testing.T) {
	for _, nameAt := range []int{18, 19} {
		for _, tc := range []struct{ all, kept []string }{
			{nil, nil},
			{[]string{"__script__.py"}, nil},
			{[]string{".", "..", "__script__.py", "a", "__script__.sh", "__script__.pyc"}, []string{".", "..", "a", "__script__.pyc"}},
			{[]string{"__script__", "x__script__.py", "__script__.py.txt"}, []string{"__script__", "x__script__.py", "__script__.py.txt"}},
		} {
			if got, want := dropScripts(entries(nameAt, tc.all...), nameAt), entries(nameAt, tc.kept...); !slices.Equal(got, want) {
				t.Errorf("%q: got %q, want %q", tc.all, got, want)
			}
		}
		// The program may write to its memory while it is read.
		whole := entries(nameAt, "a", "b")
		for size := range uint16(70) {
			for _, at := range []int{16, 16 + len(whole)/2} {
				list := slices.Clone(whole)
				binary.NativeEndian.PutUint16(list[at:], size)
				_ = dropScripts(list, nameAt)
			}
		}
		for length := range whole {
			_ = dropScripts(whole[:length], nameAt)
		}
	}
}
