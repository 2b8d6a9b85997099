package firewall

import (
	"slices"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// ParseTemplates parses the operator's narrowing of templates: entries NAME=off,
// NAME=allow:TARGET and NAME=deny:TARGET, as many as needed for each name. With
// the first target that is allowed, a template reaches what is listed alone.
// Errors name the entry. A template that is not among the known is an error: one
// that was meant would go unnarrowed.
func ParseTemplates(entries []string, known ...string) (map[string]*agentsandbox.NetworkPolicy, error) {
	const field = "egress_template"
	templates := map[string]*agentsandbox.NetworkPolicy{}
	for _, entry := range entries {
		name, rule, ok := strings.Cut(entry, "=")
		verb, target, _ := strings.Cut(rule, ":")
		if !ok || name == "" || target == "" && verb != string(agentsandbox.NetworkOff) {
			return nil, agentsandbox.Invalid(field, "must be NAME=off, NAME=allow:TARGET or NAME=deny:TARGET, not %q.", entry)
		}
		if !slices.Contains(known, name) {
			return nil, agentsandbox.Invalid(field, "%q: there is no template %q; known: %s.", entry, name, strings.Join(known, ", "))
		}
		p := templates[name]
		if p == nil {
			p = &agentsandbox.NetworkPolicy{}
			templates[name] = p
		}
		switch {
		case rule == string(agentsandbox.NetworkOff) && len(p.Allow) == 0:
			p.Mode = agentsandbox.NetworkOff
		case verb == "allow" && p.Mode != agentsandbox.NetworkOff:
			p.Mode, p.Allow = agentsandbox.NetworkAllowlist, append(p.Allow, target)
		case verb == "deny":
			p.Deny = append(p.Deny, target)
		case verb == "allow" || rule == string(agentsandbox.NetworkOff):
			return nil, agentsandbox.Invalid(field, "%q: off and allow do not go together for one template.", entry)
		default:
			return nil, agentsandbox.Invalid(field, "must be NAME=off, NAME=allow:TARGET or NAME=deny:TARGET, not %q.", entry)
		}
		for _, list := range [][]string{p.Allow, p.Deny} {
			if _, err := agentsandbox.ParseNetworkTargets(field, list); err != nil {
				return nil, err
			}
		}
	}
	return templates, nil
}

// Narrowed returns what the server allows for sandboxes of a template: no more
// than both. A template that asks for more than the server allows is an error.
func (s Server) Narrowed(template *agentsandbox.NetworkPolicy) (Server, error) {
	if template == nil {
		return s, nil
	}
	if err := s.Check(template); err != nil {
		return Server{}, err
	}
	s.template = template
	return s, nil
}

// Policy is what a sandbox of which nothing else is asked may reach, for people:
// without what is denied.
func (s Server) Policy() agentsandbox.NetworkPolicy {
	if s.template != nil && s.template.Mode != "" {
		return agentsandbox.NetworkPolicy{Mode: s.template.Mode, Allow: slices.Clone(s.template.Allow)}
	}
	p := agentsandbox.NetworkPolicy{Mode: s.Mode}
	if p.Mode == agentsandbox.NetworkAllowlist {
		for _, list := range [][]agentsandbox.NetworkTarget{s.Allow, s.Open} {
			for _, t := range list {
				p.Allow = append(p.Allow, t.String())
			}
		}
	}
	return p
}
