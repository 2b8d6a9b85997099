package inside

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// gateway is where the resolver of a sandbox with a device is. Without a device it
// is nowhere.
const gateway = "192.0.0.1"

// Types of DNS questions, RFC 1035.
const (
	typeA   = 1
	typeTXT = 16
	typeANY = 255
)

// resolver states what answers at the gateway. Its questions are such as nobody
// outside need be asked for.
func resolver(r *report) {
	var open []string
	for _, port := range []int{1, 22, 53, 80, 443, 853, 8000, 8080} {
		if reach(net.JoinHostPort(gateway, strconv.Itoa(port))) == "REACHED" {
			open = append(open, strconv.Itoa(port))
		}
	}
	r.add("network open ports of the gateway", strings.Join(open, " "))
	r.add("network resolver, a name that is none", ask("udp", gateway, "127.1", typeA))
	r.add("network resolver, the same over TCP", ask("tcp", gateway, "127.1", typeA))
	r.add("network resolver, TXT", ask("udp", gateway, "secret.example.invalid", typeTXT))
	r.add("network resolver, ANY", ask("udp", gateway, "secret.example.invalid", typeANY))
	r.add("network resolver elsewhere, UDP", ask("udp", "10.0.0.53", "127.1", typeA))
	r.add("network resolver elsewhere, TCP", ask("tcp", "10.0.0.53", "127.1", typeA))
}

// ask sends one question and says how it was answered.
func ask(network, server, name string, kind uint16) string {
	conn, err := net.DialTimeout(network, net.JoinHostPort(server, "53"), reachTimeout)
	if err != nil {
		return failure(err)
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(reachTimeout)); err != nil {
		return failure(err)
	}
	query := []byte{0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0}
	for label := range strings.SplitSeq(name, ".") {
		query = append(append(query, byte(len(label))), label...)
	}
	query = binary.BigEndian.AppendUint16(append(query, 0), kind)
	query = binary.BigEndian.AppendUint16(query, 1) // class IN
	skip := 0
	if network == "tcp" {
		query = append(binary.BigEndian.AppendUint16(nil, uint16(len(query))), query...)
		skip = 2
	}
	if _, err := conn.Write(query); err != nil {
		return failure(err)
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return "silent"
	case err != nil:
		return failure(err)
	case n < skip+12:
		return fmt.Sprintf("%d bytes", n)
	}
	head := answer[skip:]
	codes := map[byte]string{0: "no error", 1: "malformed", 2: "failed", 3: "no such name", 4: "not implemented", 5: "refused"}
	return fmt.Sprintf("%s, %d answers", codes[head[3]&15], binary.BigEndian.Uint16(head[6:]))
}

// ping sends an ICMP echo request and says whether it was answered.
func ping(address [4]byte) string {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP)
	if err != nil {
		return failure(err)
	}
	defer unix.Close(fd)
	wait := unix.NsecToTimeval(int64(reachTimeout / 4))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &wait); err != nil {
		return failure(err)
	}
	echo := []byte{8, 0, 0, 0, 0, 1, 0, 1}
	if err := unix.Sendto(fd, echo, 0, &unix.SockaddrInet4{Addr: address}); err != nil {
		return failure(err)
	}
	switch n, _, err := unix.Recvfrom(fd, make([]byte, 128), 0); {
	case errors.Is(err, unix.EAGAIN):
		return "silent"
	case err != nil:
		return failure(err)
	case n > 0:
		return "answered"
	}
	return "nothing"
}

// otherSockets states which ways past TCP there are.
func otherSockets(r *report) {
	for _, s := range []struct {
		name                   string
		family, kind, protocol int
	}{
		{"raw", unix.AF_INET, unix.SOCK_RAW, unix.IPPROTO_TCP},
		{"raw, version 6", unix.AF_INET6, unix.SOCK_RAW, unix.IPPROTO_TCP},
		{"ping", unix.AF_INET, unix.SOCK_DGRAM, unix.IPPROTO_ICMP},
		{"packet", unix.AF_PACKET, unix.SOCK_RAW, 0},
	} {
		fd, err := unix.Socket(s.family, s.kind, s.protocol)
		if err == nil {
			err = unix.Close(fd)
		}
		r.add("network socket, "+s.name, failure(err))
	}
	r.add("network ping of the gateway", ping([4]byte{192, 0, 0, 1}))
	r.add("network ping of metadata", ping([4]byte{169, 254, 169, 254}))
	r.add("network ping of a private address", ping([4]byte{10, 0, 0, 1}))
}
