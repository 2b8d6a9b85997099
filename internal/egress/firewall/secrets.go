package firewall

import (
	"encoding/base64"
	"net/http"
	"strings"

	"github.com/agentsandbox/agentsandbox"
)

// Secret is a secret of one sandbox, and the placeholder that stands for it
// inside.
type Secret struct {
	agentsandbox.Secret
	Placeholder string

	hosts          []agentsandbox.NetworkTarget
	header, scheme string
}

// NewSecret binds a secret to a placeholder; "" makes a new one. The placeholder
// says nothing about the value. It fails when the secret is not valid.
func NewSecret(s agentsandbox.Secret, placeholder string) (Secret, error) {
	if err := agentsandbox.ValidateSecrets([]agentsandbox.Secret{s}); err != nil {
		return Secret{}, err
	}
	if placeholder == "" {
		placeholder = agentsandbox.NewPlaceholder()
	}
	bound := Secret{Secret: s, Placeholder: placeholder}
	bound.header, bound.scheme = s.HeaderParts()
	var err error
	bound.hosts, err = agentsandbox.ParseNetworkTargets("secrets."+s.Name+".hosts", s.Hosts)
	return bound, err
}

// secretsFor returns the secrets bound to a name at a port. The caller knows that
// our own resolver gave the address for it: a name that the sandbox merely says
// proves nothing.
func (g *Gate) secretsFor(name string, port uint16) []Secret {
	var bound []Secret
	for _, s := range *g.secrets.Load() {
		for _, host := range s.hosts {
			if host.MatchName(name) && host.Port(port) {
				bound = append(bound, s)
				break
			}
		}
	}
	return bound
}

// fill puts secrets into the headers of a request: the placeholder becomes the
// value, in Basic credentials, too. Path, query and body are left alone: they end
// up in logs and caches of others. It returns the names of those that it put in.
func fill(h http.Header, secrets []Secret) (used []string) {
	for _, s := range secrets {
		put := false
		for name, values := range h {
			if s.header != "" && !strings.EqualFold(name, s.header) {
				continue
			}
			for i, v := range values {
				values[i] = s.replace(v)
				put = put || values[i] != v
			}
		}
		if s.header != "" && h.Get(s.header) == "" {
			h.Set(s.header, strings.TrimSpace(s.scheme+" "+s.Value.Reveal()))
			put = true
		}
		if put {
			used = append(used, s.Name)
		}
	}
	return used
}

func (s *Secret) replace(header string) string {
	if strings.Contains(header, s.Placeholder) {
		return strings.ReplaceAll(header, s.Placeholder, s.Value.Reveal())
	}
	if len(header) > 6 && strings.EqualFold(header[:6], "basic ") {
		plain, err := base64.StdEncoding.DecodeString(strings.TrimSpace(header[6:]))
		if err == nil && strings.Contains(string(plain), s.Placeholder) {
			filled := strings.ReplaceAll(string(plain), s.Placeholder, s.Value.Reveal())
			return header[:6] + base64.StdEncoding.EncodeToString([]byte(filled))
		}
	}
	return header
}
