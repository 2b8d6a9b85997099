package agentsandbox

import (
	"encoding/json"
	"log/slog"
	"regexp"
	"strings"
)

// Bounds of a session's secrets.
const (
	MaxSecrets     = 64
	MaxSecretBytes = 8 << 10
	MaxSecretHosts = 64
)

// SecretValue holds bytes that are never printed, logged or encoded: whatever
// shows it shows "[redacted]".
type SecretValue struct{ value string }

const redacted = "[redacted]"

// NewSecretValue wraps a value.
func NewSecretValue(value string) SecretValue { return SecretValue{value} }

// Reveal returns the value. Its callers are few: search for them.
func (v SecretValue) Reveal() string { return v.value }

func (v SecretValue) String() string   { return redacted }
func (v SecretValue) GoString() string { return redacted }

// LogValue implements slog.LogValuer.
func (v SecretValue) LogValue() slog.Value { return slog.StringValue(redacted) }

// MarshalJSON encodes "[redacted]".
func (v SecretValue) MarshalJSON() ([]byte, error) { return json.Marshal(redacted) }

// MarshalText encodes "[redacted]".
func (v SecretValue) MarshalText() ([]byte, error) { return []byte(redacted), nil }

// UnmarshalJSON takes the value from a JSON string.
func (v *SecretValue) UnmarshalJSON(b []byte) error { return json.Unmarshal(b, &v.value) }

// Secret is a value that a sandbox uses without holding it: inside there is a
// placeholder, which becomes the value in the headers of requests to Hosts.
type Secret struct {
	// Name is the environment variable that holds the placeholder.
	Name  string      `json:"name"`
	Value SecretValue `json:"value"`
	// Hosts are names, wildcards among them, with an optional port. Addresses are
	// refused: nothing proves who listens there.
	Hosts []string `json:"hosts"`
	// Header is "" to replace the placeholder in any request header; or a header
	// with an optional scheme, "Authorization: Bearer", which is then set on every
	// request to Hosts that does not bring another value of its own.
	Header string `json:"header,omitempty"`
}

var (
	secretName   = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_]{0,127}$`)
	secretHeader = regexp.MustCompile("^[A-Za-z0-9!#$%&'*+.^_`|~-]{1,64}(: *[A-Za-z0-9_-]{0,64})?$")
)

// Headers that frame or route a request: a secret in them would change what the
// request is.
var framingHeaders = map[string]bool{
	"host": true, "content-length": true, "transfer-encoding": true, "connection": true,
	"upgrade": true, "te": true, "trailer": true, "expect": true, "keep-alive": true,
}

// PlaceholderPrefix marks placeholders, so that people and scanners see that
// they are none of the real ones.
const PlaceholderPrefix = "asb_placeholder_"

// NewPlaceholder returns what stands for a secret in a sandbox. It says nothing
// about the value.
func NewPlaceholder() string {
	return PlaceholderPrefix + randomText(32)
}

// HeaderParts returns the header's name and the scheme before the value, both
// "" when no header is given.
func (s *Secret) HeaderParts() (name, scheme string) {
	name, scheme, _ = strings.Cut(s.Header, ":")
	return name, strings.TrimSpace(scheme)
}

// ValidateSecrets checks secrets. Errors name the field and never the value.
func ValidateSecrets(secrets []Secret) error {
	if len(secrets) > MaxSecrets {
		return Invalid("secrets", "must have at most %d entries, not %d.", MaxSecrets, len(secrets))
	}
	seen := map[string]bool{}
	for i := range secrets {
		s := &secrets[i]
		if !secretName.MatchString(s.Name) {
			return Invalid("secrets", "entry %d: name must be that of an environment variable: letters, digits and _, at most 128.", i)
		}
		if seen[s.Name] {
			return Invalid("secrets."+s.Name, "is given twice.")
		}
		seen[s.Name] = true
		if err := s.validate(); err != nil {
			return err
		}
	}
	return nil
}

func (s *Secret) validate() error {
	value := s.Value.Reveal()
	if value == "" || len(value) > MaxSecretBytes {
		return Invalid("secrets."+s.Name+".value", "must have 1 to %d bytes.", MaxSecretBytes)
	}
	for i := range len(value) {
		if c := value[i]; c < ' ' || c == 0x7f {
			return Invalid("secrets."+s.Name+".value", "has a control character, which no header can carry.")
		}
	}
	if len(s.Hosts) == 0 || len(s.Hosts) > MaxSecretHosts {
		return Invalid("secrets."+s.Name+".hosts", "must name 1 to %d hosts.", MaxSecretHosts)
	}
	targets, err := ParseNetworkTargets("secrets."+s.Name+".hosts", s.Hosts)
	if err != nil {
		return err
	}
	for _, t := range targets {
		if t.Name == "" {
			return Invalid("secrets."+s.Name+".hosts", "%q is an address: bind a secret to names.", t)
		}
	}
	if s.Header == "" {
		return nil
	}
	name, _ := s.HeaderParts()
	if !secretHeader.MatchString(s.Header) || framingHeaders[strings.ToLower(name)] {
		return Invalid("secrets."+s.Name+".header", "must be a header's name with an optional scheme, such as Authorization: Bearer, and none that frames the request.")
	}
	return nil
}
