package firewall

import (
	"strings"
	"sync"
	"time"

	"golang.org/x/net/publicsuffix"
)

// budgetWindow is the time after which a sandbox's counts of names start anew.
const budgetWindow = time.Hour

// maxBudgetDomains bounds the registered domains that are counted in a window.
const maxBudgetDomains = 4096

// budget bounds what can be told to the outside by asking for names: distinct
// names below each registered domain and their bytes, and distinct names
// altogether. Asking again for a name that was asked for is free.
type budget struct {
	limits *Limits

	mu      sync.Mutex
	started time.Time
	seen    map[string]bool
	domains map[string]*domainBudget
}

type domainBudget struct{ names, bytes int }

// spend counts a name and says whether it may be asked for.
func (b *budget) spend(name string, now time.Time) Verdict {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.seen == nil || now.Sub(b.started) > budgetWindow {
		b.started, b.seen, b.domains = now, map[string]bool{}, map[string]*domainBudget{}
	}
	if b.seen[name] {
		return allowed("asked before")
	}
	if len(b.seen) >= b.limits.Names {
		return refused(ReasonLimit, "more than %d names an hour", b.limits.Names)
	}
	domain := registered(name)
	d := b.domains[domain]
	if d == nil {
		if len(b.domains) >= maxBudgetDomains {
			return refused(ReasonLimit, "more than %d domains an hour", maxBudgetDomains)
		}
		d = &domainBudget{}
		b.domains[domain] = d
	}
	below := len(name) - len(domain)
	if below > 0 && d.names >= b.limits.NamesPerDomain {
		return refused(ReasonLimit, "more than %d names below %s an hour", b.limits.NamesPerDomain, domain)
	}
	if d.bytes+below > b.limits.NameBytesPerDomain {
		return refused(ReasonLimit, "more than %d bytes of names below %s an hour", b.limits.NameBytesPerDomain, domain)
	}
	b.seen[name] = true
	if below > 0 {
		d.names++
		d.bytes += below
	}
	return allowed("within the budget")
}

// registered returns the domain that somebody registered: one label below a
// public suffix. Suffixes that are run privately (hosting, dynamic DNS) count as
// domains of whoever runs them, or every customer of one would be a budget.
func registered(name string) string {
	suffix, icann := publicsuffix.PublicSuffix(name)
	for !icann && strings.Contains(suffix, ".") {
		suffix, icann = publicsuffix.PublicSuffix(suffix[strings.IndexByte(suffix, '.')+1:])
	}
	rest := strings.TrimSuffix(name, suffix)
	rest = strings.TrimSuffix(rest, ".")
	if rest == "" {
		return name
	}
	return rest[strings.LastIndexByte(rest, '.')+1:] + "." + suffix
}
