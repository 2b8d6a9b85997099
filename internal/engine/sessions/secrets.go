package sessions

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/agentsandbox/agentsandbox"
	"github.com/agentsandbox/agentsandbox/internal/runtime"
)

// sealed is a secret as it is sealed, value included.
type sealed struct {
	Name        string   `json:"name"`
	Value       string   `json:"value"`
	Hosts       []string `json:"hosts"`
	Header      string   `json:"header,omitempty"`
	Placeholder string   `json:"placeholder"`
}

func sealLabel(session string) string { return "secrets of " + session }

// bindSecrets gives each secret a placeholder, and seals them for the next server.
func (r *Registry) bindSecrets(session string, secrets []agentsandbox.Secret) (bound []agentsandbox.BoundSecret, sealedSecrets []byte, err error) {
	if len(secrets) == 0 {
		return nil, nil, nil
	}
	if r.vault == nil {
		return nil, nil, agentsandbox.Invalid("secrets", "this server keeps no secrets.")
	}
	plain := make([]sealed, len(secrets))
	for i, s := range secrets {
		b := agentsandbox.BoundSecret{Secret: s, Placeholder: agentsandbox.NewPlaceholder()}
		bound = append(bound, b)
		plain[i] = sealed{s.Name, s.Value.Reveal(), s.Hosts, s.Header, b.Placeholder}
	}
	text, err := json.Marshal(plain)
	if err != nil {
		return nil, nil, fmt.Errorf("secrets of %s: %w", session, err)
	}
	return bound, r.vault.Seal(text, sealLabel(session)), nil
}

// unsealSecrets opens what bindSecrets sealed.
func (r *Registry) unsealSecrets(session string, sealedSecrets []byte) ([]agentsandbox.BoundSecret, error) {
	if len(sealedSecrets) == 0 {
		return nil, nil
	}
	if r.vault == nil {
		return nil, errors.New("this server keeps no secrets")
	}
	text, err := r.vault.Unseal(sealedSecrets, sealLabel(session))
	if err != nil {
		return nil, err
	}
	var plain []sealed
	if err := json.Unmarshal(text, &plain); err != nil {
		return nil, fmt.Errorf("what was sealed makes no sense: %w", err)
	}
	bound := make([]agentsandbox.BoundSecret, len(plain))
	for i, s := range plain {
		bound[i] = agentsandbox.BoundSecret{Placeholder: s.Placeholder, Secret: agentsandbox.Secret{
			Name: s.Name, Value: agentsandbox.NewSecretValue(s.Value), Hosts: s.Hosts, Header: s.Header,
		}}
	}
	return bound, nil
}

// withoutValues is secrets as they are shown.
func withoutValues(bound []agentsandbox.BoundSecret) []agentsandbox.Secret {
	if len(bound) == 0 {
		return nil
	}
	shown := make([]agentsandbox.Secret, len(bound))
	for i, b := range bound {
		shown[i] = b.Secret
		shown[i].Value = agentsandbox.SecretValue{}
	}
	return shown
}

// placeholders are the variables by which code finds its secrets.
func placeholders(bound []agentsandbox.BoundSecret) map[string]string {
	env := make(map[string]string, len(bound))
	for _, b := range bound {
		env[b.Name] = b.Placeholder
	}
	return env
}

// reconnect gives the sandbox of a session of an earlier server its policy again.
// What cannot be had any more leaves it without a network, or without its
// secrets, and is logged: the session lives on.
func (r *Registry) reconnect(info *agentsandbox.Session, sealedSecrets []byte, sb runtime.Sandbox) []agentsandbox.BoundSecret {
	secrets, err := r.unsealSecrets(info.ID, sealedSecrets)
	if err != nil {
		r.log.Error("the secrets of a session are lost: its requests go out with placeholders in their place", "session", info.ID, "error", err)
	}
	info.Secrets = withoutValues(secrets)
	if err := r.network.Apply(sb.ID(), info.Template, info.Network, secrets); err != nil {
		r.log.Warn("a session of an earlier server reaches nothing any more", "session", info.ID, "error", err)
	}
	return secrets
}
