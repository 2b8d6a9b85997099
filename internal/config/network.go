package config

import (
	"cmp"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
)

// GroupNetwork is what sandboxes may reach.
const GroupNetwork = "Network of sandboxes"

// Modes of EgressMode.
const (
	// EgressOff gives sandboxes no network device and no resolver.
	EgressOff = "off"
	// EgressPublic lets them reach every public address.
	EgressPublic = "public"
	// EgressAllowlist lets them reach what is named.
	EgressAllowlist = "allowlist"
)

// dnsPort is where name servers listen.
const dnsPort = 53

func networkSettings() []Setting {
	return []Setting{
		{Name: "egress_mode", Group: GroupNetwork, Default: EgressPublic, Example: "MODE",
			Help: "What sandboxes may reach: nothing, without even a network device (off), public addresses (public), or what egress_allow and egress_open name (allowlist).",
			bind: func(c *Config) value {
				return choice{&c.EgressMode, []string{EgressOff, EgressPublic, EgressAllowlist}}
			}},
		{Name: "egress_allow", Group: GroupNetwork, Example: "TARGET",
			Help: "What sandboxes may reach in the mode allowlist: names (example.org, *.example.org), addresses and CIDRs, each with an optional :port or :first-last. A list.",
			bind: func(c *Config) value { return list{&c.EgressAllow} }},
		{Name: "egress_open", Group: GroupNetwork, Example: "TARGET",
			Help: "Private or reserved targets that sandboxes may reach all the same, such as a package mirror: a name, address or CIDR with an optional port. A list.",
			bind: func(c *Config) value { return list{&c.EgressOpen} }},
		{Name: "egress_deny", Group: GroupNetwork, Example: "TARGET",
			Help: "What no sandbox may reach, whatever else allows it. A list.",
			bind: func(c *Config) value { return list{&c.EgressDeny} }},
		{Name: "egress_template", Group: GroupNetwork, Example: "NAME=RULE",
			Help: "Narrows what sandboxes of one template may reach: NAME=off, NAME=allow:TARGET (then only what is listed), NAME=deny:TARGET. A list.",
			bind: func(c *Config) value { return list{&c.EgressTemplate} }},
		{Name: "egress_dns", Group: GroupNetwork, Example: "ADDRESS[:PORT]", DefaultNote: "those of the host's `/etc/resolv.conf`",
			Help: "Name servers that the daemon asks for sandboxes. A list.",
			bind: func(c *Config) value { return list{&c.EgressDNS} }},
		{Name: "egress_max_connections", Group: GroupNetwork, Default: "1024", Example: "N",
			Help: "Connections that one sandbox may have open at once.",
			bind: func(c *Config) value { return number[int]{&c.EgressMaxConnections, 1, 2048} }},
		{Name: "egress_max_bytes", Group: GroupNetwork, Default: "0", Example: "BYTES",
			Help: "Bytes that one sandbox may send and receive in its life, added up; 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.EgressMaxBytes, 0, 1 << 60} }},
		{Name: "egress_bytes_per_second", Group: GroupNetwork, Default: "0", Example: "BYTES",
			Help: "Bandwidth of one sandbox in each direction, in bytes a second; 0: no limit.",
			bind: func(c *Config) value { return number[int64]{&c.EgressBytesPerSecond, 0, tib} }},
		{Name: "egress_max_queries", Group: GroupNetwork, Default: "100000", Example: "N",
			Help: "DNS queries that one sandbox may send in its life.",
			bind: func(c *Config) value { return number[int64]{&c.EgressMaxQueries, 1, 1 << 40} }},
		{Name: "egress_ca_cert", Group: GroupNetwork, Example: "FILE",
			Help: "PEM file of the certificate authority with which connections to the hosts of a session's secrets are opened, so that secrets work in TLS. Put it into ca_bundle too, or sandboxes do not trust it.",
			bind: func(c *Config) value { return text{&c.EgressCACert} }},
		{Name: "egress_ca_key", Group: GroupNetwork, Example: "FILE",
			Help: "PEM file of that authority's private key.",
			bind: func(c *Config) value { return text{&c.EgressCAKey} }},
		{Name: "ports_host", Group: GroupNetwork, Example: "HOST[:PORT]", DefaultNote: "that of the request for the URL",
			Help: "Host name in the URLs of sessions' ports, as clients reach this server under it. It serves ports and nothing else, and no other name serves them: pages of sandboxes are kept off the API's origin.",
			bind: func(c *Config) value { return text{&c.PortsHost} }},
		{Name: "public_url", Group: GroupNetwork, Example: "URL", DefaultNote: "as the request for the URL came, X-Forwarded-Proto included",
			Help: "Scheme and host under which clients reach this server, such as https://sandbox.example.org, for the URLs of sessions' ports. Set it where a proxy in front does not pass Host and X-Forwarded-Proto.",
			bind: func(c *Config) value { return text{&c.PublicURL} }},
		{Name: "port_max_connections", Group: GroupNetwork, Default: "128", Example: "N",
			Help: "Connections to the ports of one session that may be open at once, through URLs and tunnels; 0: no limit.",
			bind: func(c *Config) value { return number[int]{&c.PortMaxConnections, 0, 1 << 20} }},
		{Name: "port_max_connections_per_key", Group: GroupNetwork, Default: "256", Example: "N",
			Help: "Connections to ports that one key may have open at once, those through the URLs that it made included; 0: no limit.",
			bind: func(c *Config) value { return number[int]{&c.PortMaxConnectionsPerKey, 0, 1 << 20} }},
		{Name: "port_max_connections_per_url", Group: GroupNetwork, Default: "64", Example: "N",
			Help: "Connections through the URL of one port that may be open at once; 0: no limit.",
			bind: func(c *Config) value { return number[int]{&c.PortMaxConnectionsPerURL, 0, 1 << 20} }},
		{Name: "port_idle_ms", Group: GroupNetwork, Default: "600000", Example: "MS",
			Help: "How long a connection to a port may be open without a byte passing, in milliseconds; then it is ended. 0: as long as the session.",
			bind: func(c *Config) value { return number[int64]{&c.PortIdleMS, 0, dayMS} }},
	}
}

// list is a setting with several values: flags that are repeated, or one value on
// each line.
type list struct{ p *[]string }

func (v list) set(s string) error {
	*v.p = nil
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			*v.p = append(*v.p, line)
		}
	}
	return nil
}
func (v list) check() error    { return nil }
func (v list) text() string    { return strings.Join(*v.p, "\n") }
func (v list) allowed() string { return "" }

// IsList tells whether the setting takes several values: its flag can be
// repeated, and elsewhere each stands on a line of its own.
func (s Setting) IsList() bool {
	_, ok := s.bind(new(Config)).(list)
	return ok
}

// Resolvers are the name servers of EgressDNS.
func (c Config) Resolvers() ([]netip.AddrPort, error) {
	var all []netip.AddrPort
	for _, entry := range c.EgressDNS {
		if addr, err := netip.ParseAddr(strings.Trim(entry, "[]")); err == nil {
			all = append(all, netip.AddrPortFrom(addr, dnsPort))
			continue
		}
		server, err := netip.ParseAddrPort(entry)
		if err != nil || server.Port() == 0 {
			return nil, problemf("must be addresses with an optional port, such as 192.0.2.53 or [2001:db8::1]:5353, not %q", entry)
		}
		all = append(all, server)
	}
	return all, nil
}

// Env is SandboxEnv as a map.
func (c Config) Env() (map[string]string, error) {
	env := make(map[string]string, len(c.SandboxEnv))
	for _, entry := range c.SandboxEnv {
		name, value, ok := strings.Cut(entry, "=")
		if !ok || name == "" || strings.ContainsRune(entry, 0) {
			return nil, problemf("must be NAME=VALUE, one on each line, not %q", entry)
		}
		env[name] = value
	}
	return env, nil
}

// checkPortsHost keeps the API reachable, and URLs whole.
func (r Resolved) checkPortsHost() error {
	if r.PortsHost == "" {
		return nil
	}
	u, err := url.Parse("http://" + r.PortsHost)
	if err != nil || u.Host != r.PortsHost || u.Hostname() == "" || strings.HasSuffix(r.PortsHost, ":") {
		return r.wrong("ports_host", "must be a host name with an optional port, such as ports.example.org or ports.example.org:8443, not %q", r.PortsHost)
	}
	if host, _, err := net.SplitHostPort(r.Listen); err == nil && strings.EqualFold(host, u.Hostname()) {
		return r.wrong("ports_host", "must be another name than that of listen, %s, under which the API is reached", host)
	}
	return nil
}

// checkPublicURL keeps the URLs of ports whole.
func (r Resolved) checkPublicURL() error {
	if r.PublicURL == "" {
		return nil
	}
	u, err := url.Parse(r.PublicURL)
	if err != nil || (u.Scheme != "http" && u.Scheme != "https") || u.Hostname() == "" || u.User != nil || strings.HasSuffix(u.Host, ":") ||
		r.PublicURL != u.Scheme+"://"+u.Host {
		return r.wrong("public_url", "must be a scheme and a host with an optional port and nothing after it, such as https://sandbox.example.org, not %q", r.PublicURL)
	}
	return nil
}

// checkNetwork checks what only the network's settings know; what the entries of
// the lists must be is the firewall's to say.
func (r Resolved) checkNetwork() error {
	if _, err := r.Resolvers(); err != nil {
		return r.wrong("egress_dns", "%s", err)
	}
	if _, err := r.Env(); err != nil {
		return r.wrong("sandbox_env", "%s", err)
	}
	if err := cmp.Or(r.checkPortsHost(), r.checkPublicURL()); err != nil {
		return err
	}
	switch {
	case len(r.EgressAllow) > 0 && r.EgressMode != EgressAllowlist:
		return r.wrong("egress_allow", "goes with egress_mode allowlist only; set that, or use egress_open for private targets")
	case r.EgressCACert != "" && r.EgressCAKey == "":
		return r.wrong("egress_ca_key", "is needed with egress_ca_cert; name the file of the private key")
	case r.EgressCACert == "" && r.EgressCAKey != "":
		return r.wrong("egress_ca_cert", "is needed with egress_ca_key; name the file of the certificate")
	}
	for name, path := range map[string]string{"egress_ca_cert": r.EgressCACert, "egress_ca_key": r.EgressCAKey} {
		if path == "" {
			continue
		}
		if info, err := os.Stat(path); err != nil {
			return r.wrong(name, "cannot be used: %v", err)
		} else if !info.Mode().IsRegular() {
			return r.wrong(name, "must be a file, and %s is not", path)
		}
	}
	return nil
}
