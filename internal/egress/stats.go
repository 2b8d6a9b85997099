package egress

import "sync/atomic"

// Stats are what went over a link since it was made. They only grow, but for
// Active.
type Stats struct {
	// Frames and their bytes, IP headers included, as they left the sandbox and
	// as they were sent to it.
	FramesFromSandbox, BytesFromSandbox int64
	FramesToSandbox, BytesToSandbox     int64
	// Lost counts frames to the sandbox for which it had no room.
	Lost int64

	// Frames that the sandbox sent and that were dropped: Malformed ones, those
	// with a source that is not the sandbox's (Spoofed), and those of protocols
	// that lead nowhere (Unsupported).
	Malformed, Spoofed, Unsupported int64
	// Datagrams counts UDP packets that were refused: all but those to the
	// resolver are.
	Datagrams int64

	// Connections counts those that the sandbox asked for, Accepted those that
	// came about, Refused those that were reset, OverLimit included, which counts
	// those above the limits of the link.
	Connections, Accepted, Refused, OverLimit int64
	// Dialled counts connections into the sandbox that came about.
	Dialled int64
	// Active is how many connections there are now, in both directions, those
	// that are not decided yet included.
	Active int64

	// Queries counts DNS queries, QueriesDropped those that were not looked at,
	// because too many were being answered.
	Queries, QueriesDropped int64
}

// counters are where Stats come from.
type counters struct {
	framesIn, bytesIn, framesOut, bytesOut, lost atomic.Int64
	malformed, spoofed, unsupported, datagrams   atomic.Int64
	connections, accepted, refused, overLimit    atomic.Int64
	dialled, active, queries, queriesDropped     atomic.Int64
}

func (c *counters) fromSandbox(bytes int) { c.framesIn.Add(1); c.bytesIn.Add(int64(bytes)) }
func (c *counters) toSandbox(bytes int)   { c.framesOut.Add(1); c.bytesOut.Add(int64(bytes)) }

func (c *counters) drop(why verdict) {
	switch why {
	case malformed:
		c.malformed.Add(1)
	case spoofed:
		c.spoofed.Add(1)
	case unsupported:
		c.unsupported.Add(1)
	}
}

func (c *counters) stats() Stats {
	return Stats{
		FramesFromSandbox: c.framesIn.Load(), BytesFromSandbox: c.bytesIn.Load(),
		FramesToSandbox: c.framesOut.Load(), BytesToSandbox: c.bytesOut.Load(), Lost: c.lost.Load(),
		Malformed: c.malformed.Load(), Spoofed: c.spoofed.Load(), Unsupported: c.unsupported.Load(),
		Datagrams:   c.datagrams.Load(),
		Connections: c.connections.Load(), Accepted: c.accepted.Load(), Refused: c.refused.Load(),
		OverLimit: c.overLimit.Load(), Dialled: c.dialled.Load(), Active: c.active.Load(),
		Queries: c.queries.Load(), QueriesDropped: c.queriesDropped.Load(),
	}
}
