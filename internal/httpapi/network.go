package httpapi

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// networkPolicy is agentsandbox.NetworkPolicy on the wire.
type networkPolicy struct {
	Mode  agentsandbox.NetworkMode `json:"mode,omitempty" enum:"off,public,allowlist" doc:"off: nothing, without even a device; public: any public address; allowlist: only what allow names. Left out: as the server has it. It can only narrow that."`
	Allow stringList               `json:"allow,omitempty" nullable:"false" maxItems:"1000" doc:"With the mode allowlist: names (example.org, *.example.org), addresses and CIDRs, each with an optional :port or :first-last. Empty means nothing."`
	Deny  stringList               `json:"deny,omitempty" nullable:"false" maxItems:"1000" doc:"What is refused whatever allows it: the same kinds of entries."`
}

func (p *networkPolicy) policy() *agentsandbox.NetworkPolicy {
	if p == nil {
		return nil
	}
	return &agentsandbox.NetworkPolicy{Mode: p.Mode, Allow: p.Allow, Deny: p.Deny}
}

// policyInfo is the same in answers, which may come to say more than requests can.
type policyInfo networkPolicy

func policyOf(p *agentsandbox.NetworkPolicy) policyInfo {
	if p == nil {
		return policyInfo{}
	}
	return policyInfo{Mode: p.Mode, Allow: p.Allow, Deny: p.Deny}
}

// secretInput is agentsandbox.Secret as it is given.
type secretInput struct {
	Name   string     `json:"name" doc:"The environment variable that holds the placeholder." example:"API_TOKEN"`
	Value  string     `json:"value" doc:"The secret. It is never shown again."`
	Hosts  stringList `json:"hosts" nullable:"false" minItems:"1" maxItems:"64" doc:"The names of the hosts that may get it, wildcards among them, with an optional port."`
	Header string     `json:"header,omitempty" doc:"Left out, the placeholder is replaced in any header. Otherwise the header, with an optional scheme, that is set on every request to the hosts." example:"Authorization: Bearer"`
}

type secretInfo struct {
	Name   string   `json:"name" doc:"The environment variable that holds the placeholder."`
	Hosts  []string `json:"hosts" nullable:"false" doc:"The names of the hosts that get it."`
	Header string   `json:"header,omitempty" doc:"The header that is set."`
}

func secretsFrom(in []secretInput) []agentsandbox.Secret {
	var secrets []agentsandbox.Secret
	for _, s := range in {
		secrets = append(secrets, agentsandbox.Secret{Name: s.Name, Value: agentsandbox.NewSecretValue(s.Value), Hosts: s.Hosts, Header: s.Header})
	}
	return secrets
}

func secretInfos(secrets []agentsandbox.Secret) []secretInfo {
	infos := make([]secretInfo, len(secrets))
	for i, s := range secrets {
		infos[i] = secretInfo{s.Name, s.Hosts, s.Header}
	}
	return infos
}

type networkReport struct {
	Policy       policyInfo       `json:"policy" doc:"What is in force."`
	Device       bool             `json:"device" doc:"The sandbox has a network device at all."`
	Connections  int64            `json:"connections" doc:"Connections that were accepted."`
	Open         int64            `json:"open_connections" doc:"Connections that are open now."`
	BytesIn      int64            `json:"bytes_in" doc:"Bytes to the sandbox."`
	BytesOut     int64            `json:"bytes_out" doc:"Bytes from the sandbox."`
	Queries      int64            `json:"dns_queries" doc:"DNS queries."`
	Refusals     map[string]int64 `json:"refusals" doc:"What was refused, cut or failed, by reason: off, denied, not_allowed, range, resolver, name, protocol, limit, query, upstream or policy."`
	Names        map[string]int64 `json:"names" doc:"How often each name was asked for."`
	NamesLeftOut int64            `json:"names_left_out" doc:"Queries for names beyond those that are counted."`
	Log          []networkEntry   `json:"log" nullable:"false" doc:"The last decisions, oldest first."`
	LogLeftOut   int64            `json:"log_left_out" doc:"Older decisions, which are not kept."`
}

type networkEntry struct {
	At      time.Time `json:"at" doc:"When it happened first (RFC 3339, UTC)."`
	Count   int       `json:"count" doc:"How often in a row."`
	Kind    string    `json:"kind" enum:"dns,tcp,tls,http" doc:"What it was recognised as."`
	Name    string    `json:"name,omitempty" doc:"The name that was asked for, or that the connection bears."`
	Address string    `json:"address,omitempty" doc:"The address that was dialled."`
	Port    uint16    `json:"port,omitempty" doc:"The port that was dialled."`
	Verdict string    `json:"verdict" enum:"allowed,refused,cut,failed" doc:"allowed; refused before a byte passed; cut afterwards; failed on the other side."`
	Reason  string    `json:"reason" doc:"Why, for programs."`
	Rule    string    `json:"rule" doc:"The entry or range that decided, for people."`
}

func (a *api) networkRoutes() {
	type setInput struct {
		sessionInput
		Body networkPolicy `nameHint:"NetworkPolicy"`
	}
	answer(a, route{
		method: "PUT", path: "/v1/sessions/{session_id}/network", id: "setNetwork", tag: "network", scope: agentsandbox.ScopeSandbox,
		summary: "Replace the network policy of a session", description: "Puts another policy in force; mode or deny must say which. Open connections that it does not allow are cut.",
		codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodeStorageFull},
	}, func(c *call, in *setInput) (*sessionInfo, error) {
		if in.Body.Mode == "" && len(in.Body.Deny) == 0 {
			// Nothing said would mean the widest policy.
			return nil, agentsandbox.Invalid("mode", "is needed, off, public or allowlist, where deny names nothing.")
		}
		s, err := a.service.SetNetwork(c.Context(), in.ID, *in.Body.policy())
		if err != nil {
			return nil, err
		}
		info := sessionInfoOf(s, false)
		return &info, nil
	})
	answer(a, route{
		method: "GET", path: "/v1/sessions/{session_id}/network", id: "getNetwork", tag: "network", scope: agentsandbox.ScopeRead,
		summary: "Show what a session did with the network", description: "Shows the policy in force, totals, and the last decisions with the rule of each, since the sandbox was made or the server was started.",
		codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *call, in *sessionInput) (*networkReport, error) {
		r, err := a.service.NetworkReport(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		return networkReportOf(r), nil
	})
	a.portRoutes()
}

func networkReportOf(r *agentsandbox.NetworkReport) *networkReport {
	out := &networkReport{
		Policy: policyOf(&r.Policy), Device: r.Device, Connections: r.Connections, Open: r.Open, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		Queries: r.Queries, Refusals: r.Refusals, Names: map[string]int64{}, NamesLeftOut: r.NamesLeftOut,
		Log: make([]networkEntry, len(r.Log)), LogLeftOut: r.LogLeftOut,
	}
	if out.Refusals == nil {
		out.Refusals = map[string]int64{}
	}
	for name, n := range r.Names {
		out.Names[text([]byte(name))] += n
	}
	for i, e := range r.Log {
		out.Log[i] = networkEntry{wireTime(e.At), e.Count, e.Kind, text([]byte(e.Name)), e.Address, e.Port, e.Verdict, e.Reason, text([]byte(e.Rule))}
	}
	return out
}

// PortInfo is an open port.
type PortInfo struct {
	Port      uint16    `json:"port" doc:"The port in the sandbox."`
	URL       string    `json:"url" doc:"Where it is served: whoever has this URL can use the port." example:"http://127.0.0.1:8000/p/TOKEN/"`
	ExpiresAt time.Time `json:"expires_at" doc:"Until when (RFC 3339, UTC)."`

	session string
}

// objectID names the port in the audit log and for a repeated request.
func (p PortInfo) objectID() string { return fmt.Sprintf("%s:%d", p.session, p.Port) }

func (c *call) portInfo(session string, p agentsandbox.OpenPort) PortInfo {
	return PortInfo{Port: p.Port, URL: c.scheme() + "://" + c.api.publicAuthority(c.r) + p.Path, ExpiresAt: wireTime(p.ExpiresAt), session: session}
}

func (a *api) portRoutes() {
	type openInput struct {
		sessionInput
		Body struct {
			Port        uint16 `json:"port" minimum:"1" maximum:"65535" doc:"The port on which a server in the sandbox listens, on any of its addresses or on 127.0.0.1 alone."`
			ExpiresInMS int64  `json:"expires_in_ms,omitempty" minimum:"0" maximum:"2592000000" doc:"How long the URL is valid, in milliseconds: no longer than the key that asks for it. 0 or left out: an hour."`
		} `nameHint:"PortRequest"`
	}
	answer(a, route{
		method: "POST", path: "/v1/sessions/{session_id}/ports", id: "openPort", tag: "network", scope: agentsandbox.ScopeSandbox,
		summary: "Give a port of a session a URL", description: "Makes a URL on this server that expires and tells nothing of what it leads to, for HTTP and WebSockets, in place of an earlier one of the same port. Whoever has the URL can use it without a key.",
		codes:  []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodeStorageFull},
		resume: func(ctx context.Context, object, _ string) (any, error) { return a.resumePort(ctx, object) },
	}, func(c *call, in *openInput) (*PortInfo, error) {
		p, err := a.service.OpenPort(c.Context(), in.ID, in.Body.Port, in.Body.ExpiresInMS)
		if err != nil {
			return nil, err
		}
		info := c.portInfo(in.ID, *p)
		return &info, nil
	})
	type portList struct {
		Ports []PortInfo `json:"ports" nullable:"false" doc:"The ports that have a valid URL, by number."`
	}
	answer(a, route{
		// Who may only read must not get what opens a door.
		method: "GET", path: "/v1/sessions/{session_id}/ports", id: "listPorts", tag: "network", scope: agentsandbox.ScopeSandbox,
		summary: "List the ports of a session that have a URL", description: "Lists open ports with their URLs, by number.",
		codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *call, in *sessionInput) (*portList, error) {
		open, err := a.service.OpenPorts(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		list := &portList{Ports: make([]PortInfo, len(open))}
		for i, p := range open {
			list.Ports[i] = c.portInfo(in.ID, p)
		}
		return list, nil
	})
	type portInput struct {
		sessionInput
		Port int `path:"port" minimum:"1" maximum:"65535" doc:"The port in the sandbox."`
	}
	answer(a, route{
		method: "DELETE", path: "/v1/sessions/{session_id}/ports/{port}", id: "closePort", tag: "network", scope: agentsandbox.ScopeSandbox,
		summary: "Close a port of a session", description: "Makes its URL invalid, for good. Connections that are open stay so.",
		codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodePortNotFound, agentsandbox.CodeStorageFull},
	}, func(c *call, in *portInput) (*nothing, error) {
		port, err := portNumber(in.Port)
		if err != nil {
			return nil, err
		}
		return &nothing{}, a.service.ClosePort(c.Context(), in.ID, port)
	})
	stream(a, route{
		method: "GET", path: "/v1/sessions/{session_id}/ports/{port}/tunnel", id: "tunnelPort", tag: "network", scope: agentsandbox.ScopeSandbox,
		summary:     "Connect to a port of a session",
		description: "With the headers Connection: Upgrade and Upgrade: " + tunnelProtocol + " the answer is 101, and from then on the connection is one to the port, in both directions.",
		status:      101, codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodePortNotReached},
	}, func(c *call, in *portInput) error {
		port, err := portNumber(in.Port)
		if err != nil {
			return err
		}
		return a.tunnel(c, in.ID, port)
	})
}

// resumePort answers a repeated request with the URL that the port has now.
func (a *api) resumePort(ctx context.Context, object string) (*PortInfo, error) {
	session, number, _ := strings.Cut(object, ":")
	open, err := a.service.OpenPorts(ctx, session)
	if err != nil {
		return nil, err
	}
	c, ok := ctx.Value(callKey{}).(*call)
	for _, p := range open {
		if ok && fmt.Sprint(p.Port) == number {
			info := c.portInfo(session, p)
			return &info, nil
		}
	}
	return nil, agentsandbox.Errorf(agentsandbox.CodePortNotFound, "Port %s of the session %s was opened, and has no valid URL any more.", number, session)
}

func portNumber(n int) (uint16, error) {
	if n < 1 || n > 65535 {
		return 0, agentsandbox.Invalid("port", "must be from 1 to 65535, not %d.", n)
	}
	return uint16(n), nil
}
