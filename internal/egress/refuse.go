package egress

// Parts of a DNS header, RFC 1035, section 4.1.1.
const (
	dnsHeader     = 12   // its length in bytes
	dnsResponse   = 0x80 // QR, in the third byte
	dnsKeep       = 0x79 // opcode and recursion desired, copied from the query
	dnsRefused    = 5    // the response code
	dnsCountsFrom = 4    // where the four counts of sections begin
)

// refuseQuery returns the answer REFUSED to a query, without its question, or
// nil when it is no query.
func refuseQuery(query []byte) []byte {
	if len(query) < dnsHeader || query[2]&dnsResponse != 0 {
		return nil
	}
	answer := make([]byte, dnsHeader)
	copy(answer, query[:dnsCountsFrom])
	answer[2] = query[2]&dnsKeep | dnsResponse
	answer[3] = dnsRefused
	return answer
}
