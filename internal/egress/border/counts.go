package border

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/agentsandbox/agentsandbox/internal/egress/firewall"
)

// counts are the totals of all sandboxes, for Prometheus.
type counts struct {
	decisions *prometheus.CounterVec
	bytes     *prometheus.CounterVec
}

var _ firewall.Observer = (*counts)(nil)

func newCounts() *counts {
	return &counts{
		decisions: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "agentsandbox", Name: "egress_decisions_total",
			Help: "What was decided about names and connections of sandboxes.",
		}, []string{"kind", "verdict", "reason"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "agentsandbox", Name: "egress_bytes_total",
			Help: "Bytes of ended connections, to sandboxes (in) and from them (out).",
		}, []string{"direction"}),
	}
}

// Egress implements firewall.Observer.
func (c *counts) Egress(kind, verdict string, reason firewall.Reason) {
	c.decisions.WithLabelValues(kind, verdict, string(reason)).Inc()
}

// EgressBytes implements firewall.Observer.
func (c *counts) EgressBytes(in, out int64) {
	c.bytes.WithLabelValues("in").Add(float64(in))
	c.bytes.WithLabelValues("out").Add(float64(out))
}

// Collectors are the metrics of the network of all sandboxes.
func (b *Border) Collectors() []prometheus.Collector {
	return []prometheus.Collector{
		b.counts.decisions, b.counts.bytes,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Namespace: "agentsandbox", Name: "egress_sandboxes", Help: "Sandboxes with a network device.",
		}, func() float64 {
			b.mu.Lock()
			defer b.mu.Unlock()
			return float64(len(b.gates))
		}),
	}
}
