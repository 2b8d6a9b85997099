package v1

import (
	"time"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/httpapi/edge"
)

// networkPolicy is agentsandbox.NetworkPolicy on the wire.
type networkPolicy struct {
	Mode  agentsandbox.NetworkMode `json:"mode,omitempty" enum:"off,public,allowlist" doc:"off: nothing, without even a device; public: any public address; allowlist: only what allow names. Left out: as the server has it. It can only narrow that."`
	Allow []string                 `json:"allow,omitempty" nullable:"false" maxItems:"1000" doc:"With the mode allowlist: names (example.org, *.example.org), addresses and CIDRs, each with an optional :port or :first-last. Empty means nothing."`
	Deny  []string                 `json:"deny,omitempty" nullable:"false" maxItems:"1000" doc:"What is refused whatever allows it: the same kinds of entries."`
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
	Name   string   `json:"name" doc:"The environment variable that holds the placeholder." example:"API_TOKEN"`
	Value  string   `json:"value" doc:"The secret. It is never shown again."`
	Hosts  []string `json:"hosts" nullable:"false" minItems:"1" maxItems:"64" doc:"The names of the hosts that may get it, wildcards among them, with an optional port."`
	Header string   `json:"header,omitempty" doc:"Left out, the placeholder is replaced in any header. Otherwise the header, with an optional scheme, that is set on every request to the hosts." example:"Authorization: Bearer"`
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

func (a *api) networkRoutes() []edge.Route {
	return []edge.Route{
		a.setNetworkRoute(),
		a.getNetworkRoute(),
	}
}

func (a *api) setNetworkRoute() edge.Route {
	type setInput struct {
		sessionInput
		Body networkPolicy `nameHint:"NetworkPolicy"`
	}
	return edge.Answer(edge.Route{
		Method: "PUT", Path: "/v1/sessions/{session_id}/network", ID: "setNetwork", Tag: "network", Scope: agentsandbox.ScopeSandbox,
		Summary: "Replace the network policy of a session", Description: "Puts another policy in force; mode or deny must say which. Open connections that it does not allow are cut.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound, agentsandbox.CodeConflict, agentsandbox.CodeStorageFull},
	}, func(c *edge.Call, in *setInput) (*sessionInfo, error) {
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
}

func (a *api) getNetworkRoute() edge.Route {
	return edge.Answer(edge.Route{
		Method: "GET", Path: "/v1/sessions/{session_id}/network", ID: "getNetwork", Tag: "network", Scope: agentsandbox.ScopeRead,
		Summary: "Show what a session did with the network", Description: "Shows the policy in force, totals, and the last decisions with the rule of each, since the sandbox was made or the server was started.",
		Codes: []agentsandbox.Code{agentsandbox.CodeSessionNotFound},
	}, func(c *edge.Call, in *sessionInput) (*networkReport, error) {
		r, err := a.service.NetworkReport(c.Context(), in.ID)
		if err != nil {
			return nil, err
		}
		return networkReportOf(r), nil
	})
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
		out.Names[edge.Text([]byte(name))] += n
	}
	for i, e := range r.Log {
		out.Log[i] = networkEntry{wireTime(e.At), e.Count, e.Kind, edge.Text([]byte(e.Name)), e.Address, e.Port, e.Verdict, e.Reason, edge.Text([]byte(e.Rule))}
	}
	return out
}
