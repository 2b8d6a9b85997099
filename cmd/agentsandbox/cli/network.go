package cli

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/agentsandbox/agentsandbox"
)

// networkFlags are a policy. Without any of them there is none.
type networkFlags struct {
	Network string   `placeholder:"MODE" help:"What may be reached: off, public, or allowlist; what the server allows otherwise."`
	Allow   []string `sep:"none" placeholder:"TARGET" help:"What may be reached, and nothing else: a name (example.org, *.example.org), address or CIDR, with an optional :port. Means --network allowlist. Can be repeated."`
	Deny    []string `sep:"none" placeholder:"TARGET" help:"What is refused whatever allows it. Can be repeated."`
}

// policy is nil if nothing was asked for. An allow-list alone says its mode.
func (f networkFlags) policy() *agentsandbox.NetworkPolicy {
	if f.Network == "" && len(f.Allow)+len(f.Deny) == 0 {
		return nil
	}
	p := &agentsandbox.NetworkPolicy{Mode: agentsandbox.NetworkMode(f.Network), Allow: f.Allow, Deny: f.Deny}
	if p.Mode == "" && len(p.Allow) > 0 {
		p.Mode = agentsandbox.NetworkAllowlist
	}
	return p
}

func policyText(p *agentsandbox.NetworkPolicy) string {
	if p == nil {
		return ""
	}
	text := string(p.Mode)
	if len(p.Allow) > 0 {
		text += ", allow " + strings.Join(p.Allow, " ")
	}
	if len(p.Deny) > 0 {
		text += ", deny " + strings.Join(p.Deny, " ")
	}
	return text
}

type sessionsNetwork struct {
	ID string `arg:"" help:"Id of the session."`
	networkFlags
	jsonFlag
	connection
}

// Help is the text between the summary and the flags.
func (c *sessionsNetwork) Help() string {
	return `With --network, --allow or --deny, puts another policy in force and cuts the open connections that it does not allow. Without, shows the policy, totals, and the last decisions with the rule of each.

Examples:

    agentsandbox sessions network ses_…
    agentsandbox sessions network ses_… --allow pypi.org:443 --allow '*.pythonhosted.org:443'
    agentsandbox sessions network ses_… --network off`
}

// Run replaces or shows the policy.
func (c *sessionsNetwork) Run(a *app) error {
	service, err := c.service(a)
	if err != nil {
		return err
	}
	if p := c.policy(); p != nil {
		s, err := service.SetNetwork(a.ctx, c.ID, *p)
		if err != nil {
			return err
		}
		if c.JSON {
			return a.printJSON(viewOfSession(*s))
		}
		return a.print(neutral(policyText(s.Network)) + "\n")
	}
	r, err := service.NetworkReport(a.ctx, c.ID)
	if err != nil {
		return err
	}
	if c.JSON {
		return a.printJSON(viewOfReport(*r))
	}
	return a.printNetwork(r)
}

func (a *app) printNetwork(r *agentsandbox.NetworkReport) error {
	if err := a.printFields([][2]string{
		{"policy", policyText(&r.Policy)},
		{"connections", fmt.Sprintf("%d, %d open", r.Connections, r.Open)},
		{"received", sizeText(r.BytesIn)},
		{"sent", sizeText(r.BytesOut)},
		{"DNS queries", fmt.Sprint(r.Queries)},
		{"refusals", countsText(r.Refusals)},
	}); err != nil || len(r.Log) == 0 {
		return err
	}
	rows := make([][]string, len(r.Log))
	for i, e := range r.Log {
		target := e.Name
		if e.Address != "" {
			target = strings.TrimSpace(target + " " + e.Address)
		}
		if e.Port != 0 {
			target += fmt.Sprintf(":%d", e.Port)
		}
		rows[i] = []string{timeText(e.At), fmt.Sprint(e.Count), e.Kind, e.Verdict, target, e.Rule}
	}
	if err := a.print("\n"); err != nil {
		return err
	}
	return a.printTable([]string{"TIME", "COUNT", "KIND", "VERDICT", "TARGET", "RULE"}, rows)
}

func countsText(counts map[string]int64) string {
	var pairs []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		pairs = append(pairs, fmt.Sprintf("%s %d", name, counts[name]))
	}
	return strings.Join(pairs, ", ")
}

type policyView struct {
	Mode  agentsandbox.NetworkMode `json:"mode"`
	Allow []string                 `json:"allow,omitempty"`
	Deny  []string                 `json:"deny,omitempty"`
}

func viewOfPolicy(p *agentsandbox.NetworkPolicy) *policyView {
	if p == nil {
		return nil
	}
	v := policyView(*p)
	return &v
}

type reportView struct {
	Policy       policyView       `json:"policy"`
	Device       bool             `json:"device"`
	Connections  int64            `json:"connections"`
	Open         int64            `json:"open_connections"`
	BytesIn      int64            `json:"bytes_in"`
	BytesOut     int64            `json:"bytes_out"`
	Queries      int64            `json:"dns_queries"`
	Refusals     map[string]int64 `json:"refusals"`
	Names        map[string]int64 `json:"names"`
	NamesLeftOut int64            `json:"names_left_out"`
	Log          []entryView      `json:"log"`
	LogLeftOut   int64            `json:"log_left_out"`
}

type entryView struct {
	At      time.Time `json:"at"`
	Count   int       `json:"count"`
	Kind    string    `json:"kind"`
	Name    string    `json:"name,omitempty"`
	Address string    `json:"address,omitempty"`
	Port    uint16    `json:"port,omitempty"`
	Verdict string    `json:"verdict"`
	Reason  string    `json:"reason"`
	Rule    string    `json:"rule"`
}

func viewOfReport(r agentsandbox.NetworkReport) reportView {
	v := reportView{
		Policy: policyView(r.Policy), Device: r.Device, Connections: r.Connections, Open: r.Open, BytesIn: r.BytesIn, BytesOut: r.BytesOut,
		Queries: r.Queries, Refusals: r.Refusals, Names: r.Names, NamesLeftOut: r.NamesLeftOut, Log: make([]entryView, len(r.Log)), LogLeftOut: r.LogLeftOut,
	}
	for i, e := range r.Log {
		v.Log[i] = entryView(e)
	}
	return v
}
