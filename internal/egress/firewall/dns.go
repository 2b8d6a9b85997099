package firewall

import (
	"context"
	"encoding/binary"
	"errors"
	"net/netip"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/agentsandbox/agentsandbox"
)

const (
	maxUDP     = 1232 // bytes of an answer over UDP, to a query that takes so much
	plainUDP   = 512  // to one without EDNS, RFC 1035
	dnsHeader  = 12   // bytes
	answerTime = 8 * time.Second
	// lookupsAtOnce bounds the questions of one sandbox that are under way outside.
	lookupsAtOnce = 16
)

// Extended DNS errors, RFC 8914, so that tools in the sandbox can say why.
const (
	edeBlocked   = 15
	edeNetwork   = 23
	edeOtherType = 21 // "not supported"
	edeOption    = 15 // the option's code
)

// reply is what a query is answered with.
type reply struct {
	rcode dnsmessage.RCode
	addrs []netip.Addr
	ttl   time.Duration
	ede   uint16 // 0: none
	text  string
}

// query is a question of the sandbox, and how it takes answers.
type query struct {
	header   dnsmessage.Header
	question dnsmessage.Question
	hasEDNS  bool
	size     int // of an answer, in bytes
}

// DNS implements egress.Handler. It answers A and AAAA of names that the policy
// allows; any other type of an allowed name has no data, and is never asked
// outside: no TXT, no tunnel in it. A name that is not allowed does not exist
// (NXDOMAIN, so that programs fail at once and do not try again), malformed
// queries get FORMERR, and what is no query at all gets nothing.
func (g *Gate) DNS(ctx context.Context, raw []byte, overTCP bool) []byte {
	q, rcode, ok := parseQuery(raw, overTCP)
	if !ok {
		g.count(entryFor("dns", "", netip.AddrPort{}, refused(ReasonQuery, "malformed query")))
		return nil
	}
	if rcode != dnsmessage.RCodeSuccess {
		g.count(entryFor("dns", "", netip.AddrPort{}, refused(ReasonQuery, "answered %s", rcode)))
		return q.pack(reply{rcode: rcode})
	}
	if v := g.admitQuery(); !v.Allowed {
		g.count(entryFor("dns", "", netip.AddrPort{}, v))
		return q.pack(reply{rcode: dnsmessage.RCodeRefused, ede: edeBlocked, text: explanation(v)})
	}
	name, err := wireName(q.question.Name)
	if err != nil {
		g.count(entryFor("dns", "", netip.AddrPort{}, refused(ReasonQuery, "no host name")))
		return q.pack(reply{rcode: dnsmessage.RCodeNameError})
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	r, v := g.resolve(ctx, question{name, q.question.Type})
	g.count(entryFor("dns", name, netip.AddrPort{}, v))
	return q.pack(r)
}

// resolve judges a name, looks it up, and pins what the policy leaves of the
// answer.
func (g *Gate) resolve(ctx context.Context, q question) (reply, Verdict) {
	p := g.Policy()
	blocked := func(v Verdict) (reply, Verdict) {
		return reply{rcode: dnsmessage.RCodeNameError, ede: edeBlocked, text: explanation(v)}, v
	}
	v := p.name(q.name)
	if !v.Allowed {
		return blocked(v)
	}
	switch q.typ {
	case dnsmessage.TypeA, dnsmessage.TypeAAAA:
	case dnsmessage.TypeALL, dnsmessage.TypeAXFR, 251: // 251 is IXFR
		return reply{rcode: dnsmessage.RCodeRefused, ede: edeOtherType}, refused(ReasonQuery, "type %s", q.typ)
	default:
		return reply{ede: edeOtherType, text: "only A and AAAA"}, refused(ReasonQuery, "type %s: only A and AAAA are answered", q.typ)
	}
	if spent := g.budget.spend(q.name, time.Now()); !spent.Allowed {
		r, _ := blocked(spent)
		r.rcode = dnsmessage.RCodeRefused
		return r, spent
	}
	found, err := g.lookup(ctx, q)
	if err != nil {
		g.fw.log.Debug("resolve", "sandbox", g.id, "error", err)
		return reply{rcode: dnsmessage.RCodeServerFailure, ede: edeNetwork}, refused(ReasonUpstream, "no name server answered")
	}
	if !found.exists {
		return reply{rcode: dnsmessage.RCodeNameError}, allowed("%s; no such name", v.Rule)
	}
	kept, filtered := g.filter(p, q.name, found.addrs)
	ttl := max(time.Until(found.expires), time.Second)
	g.pins.add(q.name, kept, ttl, time.Now())
	if len(kept) == 0 && len(found.addrs) > 0 {
		return reply{ede: edeBlocked, text: explanation(filtered)}, filtered
	}
	// The pin outlives what the sandbox is told.
	return reply{addrs: kept, ttl: min(ttl, maxPin)}, v
}

// lookup asks the resolver. A sandbox whose names take long to resolve must not
// take the places of others, so it waits for one of its own.
func (g *Gate) lookup(ctx context.Context, q question) (lookup, error) {
	select {
	case g.lookups <- struct{}{}:
		defer func() { <-g.lookups }()
		return g.fw.resolver.lookup(ctx, q)
	case <-ctx.Done():
		return lookup{}, ctx.Err()
	}
}

// filter keeps the addresses that may be in the answer for a name: an allowed
// name that points into a private range is the oldest trick.
func (g *Gate) filter(p *Policy, name string, addrs []netip.Addr) (kept []netip.Addr, last Verdict) {
	for _, a := range addrs {
		a = a.Unmap()
		v := p.answer(name, a, g.fw.kindOf(a))
		if v.Allowed {
			kept = append(kept, a)
		} else {
			last = v
			last.Rule = a.String() + ": " + v.Rule
		}
	}
	return kept, last
}

// parseQuery returns false for what deserves no answer, and an rcode for what
// deserves no better one.
func parseQuery(raw []byte, overTCP bool) (query, dnsmessage.RCode, bool) {
	var p dnsmessage.Parser
	q := query{size: plainUDP}
	if overTCP {
		q.size = 64<<10 - 1
	}
	h, err := p.Start(raw)
	if err != nil || h.Response {
		return q, 0, false
	}
	q.header = h
	if h.OpCode != 0 {
		return q, dnsmessage.RCodeNotImplemented, true
	}
	if len(raw) < dnsHeader || binary.BigEndian.Uint16(raw[4:]) != 1 {
		return q, dnsmessage.RCodeFormatError, true
	}
	if q.question, err = p.Question(); err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	if err := errors.Join(p.SkipAllQuestions(), p.SkipAllAnswers(), p.SkipAllAuthorities()); err != nil {
		return q, dnsmessage.RCodeFormatError, true
	}
	for {
		rh, err := p.AdditionalHeader()
		if errors.Is(err, dnsmessage.ErrSectionDone) {
			break
		}
		if err != nil {
			return q, dnsmessage.RCodeFormatError, true
		}
		if rh.Type == dnsmessage.TypeOPT {
			if q.hasEDNS {
				return q, dnsmessage.RCodeFormatError, true
			}
			q.hasEDNS = true
			if !overTCP {
				q.size = min(max(int(rh.Class), plainUDP), maxUDP)
			}
		}
		if err := p.SkipAdditional(); err != nil {
			return q, dnsmessage.RCodeFormatError, true
		}
	}
	if q.question.Class != dnsmessage.ClassINET {
		return q, dnsmessage.RCodeRefused, true
	}
	return q, dnsmessage.RCodeSuccess, true
}

// pack writes an answer. One that is too long for UDP becomes an empty one with
// TC, and the sandbox asks again over TCP.
func (q query) pack(r reply) []byte {
	b, err := q.build(r, false)
	if err == nil && len(b) > q.size {
		b, err = q.build(reply{rcode: r.rcode}, true)
	}
	if err != nil {
		return nil
	}
	return b
}

func (q query) build(r reply, truncated bool) ([]byte, error) {
	b := dnsmessage.NewBuilder(nil, dnsmessage.Header{
		ID: q.header.ID, Response: true, OpCode: q.header.OpCode, RCode: r.rcode,
		RecursionDesired: q.header.RecursionDesired, RecursionAvailable: true, Truncated: truncated,
	})
	b.EnableCompression()
	if err := b.StartQuestions(); err != nil {
		return nil, err
	}
	if q.question.Name.Length > 0 {
		if err := b.Question(q.question); err != nil {
			return nil, err
		}
	}
	if err := b.StartAnswers(); err != nil {
		return nil, err
	}
	for _, a := range r.addrs {
		h := dnsmessage.ResourceHeader{Name: q.question.Name, Class: dnsmessage.ClassINET, TTL: uint32(r.ttl / time.Second)}
		var err error
		if a.Is4() {
			err = b.AResource(h, dnsmessage.AResource{A: a.As4()})
		} else {
			err = b.AAAAResource(h, dnsmessage.AAAAResource{AAAA: a.As16()})
		}
		if err != nil {
			return nil, err
		}
	}
	if q.hasEDNS {
		if err := b.StartAdditionals(); err != nil {
			return nil, err
		}
		var h dnsmessage.ResourceHeader
		if err := h.SetEDNS0(maxUDP, r.rcode, false); err != nil {
			return nil, err
		}
		var opt dnsmessage.OPTResource
		if r.ede != 0 {
			data := append(binary.BigEndian.AppendUint16(nil, r.ede), r.text...)
			opt.Options = append(opt.Options, dnsmessage.Option{Code: edeOption, Data: data})
		}
		if err := b.OPTResource(h, opt); err != nil {
			return nil, err
		}
	}
	return b.Finish()
}

// wireName returns a name of a message as NormalName does.
func wireName(n dnsmessage.Name) (string, error) { return agentsandbox.NormalName(n.String()) }
