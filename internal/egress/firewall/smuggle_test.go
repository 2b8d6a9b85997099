package firewall

import (
	"bufio"
	"fmt"
	"io"
	"net/http"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// smuggleCases try to ask an allowed address for another name, in every way in
// which plain HTTP can say it, on the port of HTTP and on others.
func smuggleCases(t *testing.T, w *world) {
	const host = "Host: stolen.example\r\n\r\n"
	long := strings.Repeat("a", 2*maxFirst)
	for name, text := range map[string]string{
		"an unknown method":                         "BREW / HTTP/1.1\r\n" + host,
		"a method of other letters":                 "M-SEARCH * HTTP/1.1\r\n" + host,
		"a method of one letter":                    "X / HTTP/1.1\r\n" + host,
		"a long target":                             "GET /" + long + " HTTP/1.1\r\n" + host,
		"a long target of an unknown method":        "BREW /" + long + " HTTP/1.1\r\n" + host,
		"a long method":                             long + " / HTTP/1.1\r\n" + host,
		"a long absolute form":                      "BREW http://stolen.example/" + long + " HTTP/1.1\r\n" + host,
		"a target that does not print":              "BREW /\x01\x02 HTTP/1.1\r\n" + host,
		"a target that is not ASCII":                "BREW /\xe9\xff HTTP/1.1\r\n" + host,
		"other white space":                         "GET\x0b/\x0bHTTP/1.1\r\n" + host,
		"white space first":                         "\x1c\x85GET / HTTP/1.1\r\n" + host,
		"empty lines first":                         "\r\n\n\r\n \r\nBREW / HTTP/1.1\r\n" + host,
		"a line first that is none of HTTP":         "hello there\r\nGET / HTTP/1.1\r\n" + host,
		"a number first":                            "5\r\nBREW /answer HTTP/1.1\r\n" + host,
		"many lines first":                          strings.Repeat("NOOP\r\n", 20) + "GET / HTTP/1.0\r\n" + host,
		"bytes first":                               "\x00\x01\x02\nGET / HTTP/1.1\r\n" + host,
		"absolute form":                             "GET http://stolen.example/ HTTP/1.1\r\nHost: mine.example\r\n\r\n",
		"absolute form of another scheme":           "GET https://stolen.example/ HTTP/1.1\r\nHost: mine.example\r\n\r\n",
		"two Hosts, the foreign one first":          "GET / HTTP/1.1\r\nHost: stolen.example\r\nHost: mine.example\r\n\r\n",
		"two Hosts, the foreign one last":           "GET / HTTP/1.1\r\nHost: mine.example\r\n" + host,
		"Host with a port":                          "GET / HTTP/1.1\r\nHost: stolen.example:8080\r\n\r\n",
		"Host in capitals with a dot":               "GET / HTTP/1.1\r\nHost: STOLEN.EXAMPLE.\r\n\r\n",
		"Host that is continued":                    "GET / HTTP/1.1\r\nHost: mine.example\r\n stolen.example\r\n\r\n",
		"Host that begins on the next line":         "GET / HTTP/1.1\r\nHost:\r\n stolen.example\r\n\r\n",
		"Host that is not ASCII":                    "GET / HTTP/1.1\r\nHost: st\xc3\xb6len.example\r\n\r\n",
		"Host in punycode":                          "GET / HTTP/1.1\r\nHost: xn--stlen-jua.example\r\n\r\n",
		"Host with user info":                       "GET / HTTP/1.1\r\nHost: mine.example@stolen.example\r\n\r\n",
		"Host after a bare carriage return":         "GET / HTTP/1.1\r\nX: y\rHost: stolen.example\r\n\r\n",
		"HTTP/2 with prior knowledge":               "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\x00\x00\x00\x04\x00\x00\x00\x00\x00",
		"HTTP/2 with prior knowledge and a tab":     "PRI\t* HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"a request after half a request of its own": "GET /",
	} {
		for _, port := range []int{80, 8080, 8081} {
			for _, drip := range []bool{false, true} {
				if drip && len(text) > maxFirst {
					continue
				}
				t.Run(fmt.Sprintf("%s, port %d, split %v", name, port, drip), func(t *testing.T) {
					b, a := w.named(t, "mine.example", port)
					conn := b.connect(at(a, port))
					to := io.Writer(conn)
					stolen := strings.ReplaceAll(a.String(), ".", "-") + ".example"
					text := strings.NewReplacer("stolen.example", stolen, "STOLEN.EXAMPLE", strings.ToUpper(stolen)).Replace(text)
					if drip {
						to = dripping{conn}
					}
					go func() {
						_, _ = io.WriteString(to, text)
						_ = conn.(interface{ CloseWrite() error }).CloseWrite()
					}()
					said := b.told(conn)
					if strings.Contains(said, " 200 ") || strings.Contains(said, stolen) && !strings.Contains(said, "403 Forbidden") {
						t.Errorf("was answered: %.300q", said)
					}
					if w.arrived(stolen) {
						t.Error("the name arrived outside")
					}
				})
			}
		}
	}
}

// lateCases are connections of other protocols, which must go on working, and end
// where a server turns out to speak HTTP.
func lateCases(t *testing.T, w *world) {
	t.Run("a request after others", func(t *testing.T) {
		b, a := w.named(t, "mine.example", 8080)
		conn := b.connect(at(a, 8080))
		r := bufio.NewReader(conn)
		for range 3 {
			if status, _ := request(t, conn, r, "GET / HTTP/1.1\r\nHost: MINE.example.:8080\r\n\r\n"); status != 200 {
				t.Fatalf("answered %d", status)
			}
		}
		if status, _ := request(t, conn, r, "BREW / HTTP/1.1\r\nHost: stolen.example\r\n\r\n"); status != 403 {
			t.Errorf("answered %d", status)
		}
		b.ended(conn)
	})
	t.Run("an answer in HTTP to what was no request", func(t *testing.T) {
		b, a := w.named(t, "mine.example", 8081)
		conn := b.connect(at(a, 8081))
		_, _ = io.WriteString(conn, "give me /answer\n")
		if said := b.told(conn); said != "" {
			t.Errorf("was answered %q", said)
		}
		b.logged(ReasonProtocol)
	})
	for name, text := range map[string]string{
		"of text":                   "*1\r\n$4\r\nPING\r\n",
		"of bytes":                  "\x00\x00\x00\x08\x04\xd2\x16\x2f",
		"that logs requests":        "<34>1 host began\n<34>1 host GET /index HTTP/1.1\n\"GET / HTTP/1.1\" 200 17\n{\"line\": \"GET / HTTP/1.1\"}\n",
		"whose answer looks alike":  "HTTPS is not HTTP\r\n",
		"that asks for a key":       "gets key\r\n",
		"with a line longer than 8": strings.Repeat("\x01", 3*maxFirst) + "\n",
	} {
		t.Run("another protocol "+name, func(t *testing.T) {
			b, a := w.named(t, "mine.example", 7)
			conn := b.connect(at(a, 7))
			go func() { _, _ = io.WriteString(conn, text) }()
			got := make([]byte, len(text))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != text {
				t.Errorf("%.100q %v", got, err)
			}
			// Once the server has answered, it is known not to speak HTTP.
			_, _ = io.WriteString(conn, "GET / HTTP/1.1\r\n")
			got = make([]byte, len("GET / HTTP/1.1\r\n"))
			if _, err := io.ReadFull(conn, got); err != nil || string(got) != "GET / HTTP/1.1\r\n" {
				t.Errorf("%q %v", got, err)
			}
		})
	}
	t.Run("only WebSocket is an upgrade", func(t *testing.T) {
		b, a := w.named(t, "mine.example", 80)
		conn := b.connect(at(a, 80))
		r := bufio.NewReader(conn)
		for _, upgrade := range []string{"TLS/1.2", "h2c", "HTTP/2.0", "websocket, h2c"} {
			status, e := request(t, conn, r, "GET / HTTP/1.1\r\nHost: mine.example\r\nConnection: Upgrade\r\nUpgrade: "+upgrade+"\r\n\r\n")
			if status != http.StatusOK || e.Header.Get("Upgrade") != "" {
				t.Errorf("%s: %d %+v", upgrade, status, e)
			}
		}
	})
	t.Run("a first line that never ends", func(t *testing.T) {
		b := w.allowing(t, "mine.example")
		b.gate.limits = &Limits{Connections: 9, Hello: 50 * time.Millisecond, Dial: time.Second, Idle: time.Minute, Bytes: -1}
		a := w.address(8080)
		b.gate.pins.add("mine.example", []netip.Addr{a}, time.Hour, time.Now())
		conn := b.connect(at(a, 8080))
		_, _ = io.WriteString(conn, "BREW /")
		if said := b.told(conn); strings.Contains(said, "200") {
			t.Errorf("was answered %q", said)
		}
		b.logged(ReasonProtocol)
	})
}
