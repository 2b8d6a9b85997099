package inside

import (
	"errors"
	"net"
	"slices"
	"strings"
	"time"
)

// reachTimeout is how long an address may stay silent before it counts as out of
// reach.
const reachTimeout = 2 * time.Second

// network states what the code can reach. Names start with "network", so that
// the list can have lines for each mode of it.
func network(r *report, hostPort string) {
	interfaces, err := net.Interfaces()
	if err != nil {
		r.add("network interfaces", failure(err))
	}
	var seen []string
	for _, i := range interfaces {
		text := i.Name
		addresses, err := i.Addrs()
		if err != nil {
			text += " " + failure(err)
		}
		for _, a := range addresses {
			text += " " + a.String()
		}
		seen = append(seen, text)
	}
	slices.Sort(seen)
	r.add("network interfaces", strings.Join(seen, ", "))
	routes := strings.Split(strings.TrimSpace(content("/proc/net/route")), "\n")
	r.addf("network routes", "%d", len(routes)-1)
	var resolvers []string
	for _, line := range strings.Split(content("/etc/resolv.conf"), "\n") {
		if address, ok := strings.CutPrefix(line, "nameserver "); ok {
			resolvers = append(resolvers, strings.TrimSpace(address))
		}
	}
	r.add("network resolvers", strings.Join(resolvers, " "))
	sockets := strings.Count(strings.TrimSpace(content("/proc/net/unix")), "\n@")
	r.addf("network abstract sockets", "%d", sockets)
	targets := []struct{ name, address string }{
		{"the host's loopback", net.JoinHostPort("127.0.0.1", hostPort)},
		{"the host's loopback, version 6", net.JoinHostPort("::1", hostPort)},
		{"metadata", "169.254.169.254:80"},
		{"metadata, version 6", "[fd00:ec2::254]:80"},
		{"metadata of containers", "169.254.170.2:80"},
		{"metadata through NAT64", "[64:ff9b::a9fe:a9fe]:80"},
		{"metadata through 6to4", "[2002:a9fe:a9fe::1]:80"},
		{"link-local", "169.254.1.1:80"},
		{"unique-local", "[fc00::1]:80"},
		{"private 10/8", "10.0.0.1:80"},
		{"private 172.16/12", "172.17.0.1:80"},
		{"private 192.168/16", "192.168.0.1:80"},
		{"shared 100.64/10", "100.100.100.200:80"},
		{"any", net.JoinHostPort("0.0.0.0", hostPort)},
	}
	results := make([]chan string, len(targets))
	for i, t := range targets {
		results[i] = make(chan string, 1)
		go func() { results[i] <- reach(t.address) }()
	}
	for i, t := range targets {
		r.add("network to "+t.name, <-results[i])
	}
	resolver(r)
	otherSockets(r)
}

func reach(address string) string {
	conn, err := net.DialTimeout("tcp", address, reachTimeout)
	if err == nil {
		conn.Close()
		return "REACHED"
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() {
		return "silent"
	}
	return failure(err)
}
