package agent

import (
	"encoding/binary"
	"testing"

	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

func TestAbsurdAllocationsAreRefused(t *testing.T) {
	var program []bpf.Instruction
	for _, f := range absurdFilter() {
		program = append(program, bpf.RawInstruction{Op: f.Code, Jt: f.Jt, Jf: f.Jf, K: f.K}.Disassemble())
	}
	vm, err := bpf.NewVM(program)
	if err != nil {
		t.Fatal(err)
	}
	const (
		tib  = 1 << 40
		gib  = 1 << 30
		rw   = unix.PROT_READ | unix.PROT_WRITE
		anon = unix.MAP_PRIVATE | unix.MAP_ANONYMOUS
	)
	for _, c := range []struct {
		what    string
		number  uint32
		args    [4]uint64
		refused bool
	}{
		{"malloc", unix.SYS_MMAP, [4]uint64{0, tib, rw, anon}, true},
		{"the least", unix.SYS_MMAP, [4]uint64{0, absurdGiB * gib, rw, anon}, true},
		{"less", unix.SYS_MMAP, [4]uint64{0, absurdGiB*gib - 4096, rw, anon}, false},
		{"little", unix.SYS_MMAP, [4]uint64{0, 4096, rw, anon}, false},
		{"shared memory of nobody's", unix.SYS_MMAP, [4]uint64{0, tib, rw, unix.MAP_SHARED | unix.MAP_ANONYMOUS}, true},
		{"a copy of a file", unix.SYS_MMAP, [4]uint64{0, tib, rw, unix.MAP_PRIVATE}, true},
		{"a file", unix.SYS_MMAP, [4]uint64{0, tib, unix.PROT_READ, unix.MAP_PRIVATE}, false},
		{"a shared file", unix.SYS_MMAP, [4]uint64{0, tib, rw, unix.MAP_SHARED}, false},
		{"a shared file, checked", unix.SYS_MMAP, [4]uint64{0, tib, rw, unix.MAP_SHARED_VALIDATE}, false},
		{"reserved without access", unix.SYS_MMAP, [4]uint64{0, tib, unix.PROT_NONE, anon}, false},
		{"reserved by its word", unix.SYS_MMAP, [4]uint64{0, 20 * tib, rw, anon | unix.MAP_NORESERVE}, false},
		{"made writable", unix.SYS_MPROTECT, [4]uint64{0, tib, rw}, true},
		{"made readable", unix.SYS_MPROTECT, [4]uint64{0, tib, unix.PROT_READ}, false},
		{"a part made writable", unix.SYS_MPROTECT, [4]uint64{0, gib, rw}, false},
		{"realloc", unix.SYS_MREMAP, [4]uint64{0, gib, tib, 1}, true},
		{"a smaller realloc", unix.SYS_MREMAP, [4]uint64{0, tib, gib, 1}, false},
		{"another call", unix.SYS_MUNMAP, [4]uint64{0, tib, rw, anon}, false},
	} {
		// Words as they are in memory, which this machine of filters reads in the
		// order of the network.
		data := make([]byte, 64)
		binary.BigEndian.PutUint32(data[dataNumber:], c.number)
		for i, v := range c.args {
			binary.BigEndian.PutUint32(data[argument(uint32(i)):], uint32(v))
			binary.BigEndian.PutUint32(data[argument(uint32(i))+high:], uint32(v>>32))
		}
		got, err := vm.Run(data)
		if err != nil {
			t.Fatal(err)
		}
		want := uint32(unix.SECCOMP_RET_ALLOW)
		if c.refused {
			want = unix.SECCOMP_RET_ERRNO | uint32(unix.ENOMEM)
		}
		if uint32(got) != want {
			t.Errorf("%s: %#x, want %#x", c.what, got, want)
		}
	}
}
