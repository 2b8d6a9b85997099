package mcp

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// maxRequestBytes bounds a message, on both transports.
const maxRequestBytes = 16 << 20

// sessionHeader carries the id of a conversation.
const sessionHeader = "Mcp-Session-Id"

// sessionless is the first version of the protocol that has no sessions over
// HTTP, so that nothing would say whose sandbox a call means. Clients of it
// agree on the version before.
const sessionless = "2026-07-28"

// Handler serves conversations over streamable HTTP. Each belongs to the API key
// that opened it, which stands in the Authorization header of its requests and
// is what the Service is used with.
type Handler struct {
	connect func(key string) (agentsandbox.Service, error)
	opts    Options
	http    http.Handler

	watchers sync.WaitGroup
	mu       sync.Mutex
	closed   bool
	live     map[string]*liveConversation // by id
	opening  map[*opening]bool
}

// NewHandler makes a handler. connect returns the Service as the holder of a key
// sees it; it sends nothing yet.
func NewHandler(connect func(key string) (agentsandbox.Service, error), opts Options) *Handler {
	opts.Lease = cmp.Or(opts.Lease, DefaultLease)
	h := &Handler{connect: connect, opts: opts, live: make(map[string]*liveConversation), opening: make(map[*opening]bool)}
	streamable := sdk.NewStreamableHTTPHandler(h.open, &sdk.StreamableHTTPOptions{
		Logger: opts.Logger, SessionTimeout: idleConversation, MaxRequestBodyBytes: maxRequestBytes,
		// A call has one answer and nothing before it. As an event of a stream it
		// could be too large: clients bound those, the official one in Python at 1 MiB.
		JSONResponse: true,
		// guardHosts does that, and knows the names of proxies.
		DisableLocalhostProtection: true,
	})
	admitted := h.admission(streamable, func(r *http.Request) string { return auth.TokenInfoFromContext(r.Context()).UserID })
	keyed := auth.RequireBearerToken(h.verify, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(admitted)
	// A page in somebody's browser must not speak for its reader.
	h.http = guardHosts(opts.AllowedHosts, http.NewCrossOriginProtection().Handler(keyed))
	return h
}

// ServeHTTP serves one request of a conversation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.http.ServeHTTP(w, r) }

// Close ends every conversation, with its sandbox, and waits for that.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	for _, c := range h.live {
		h.leave(c)
	}
	h.mu.Unlock()
	h.watchers.Wait()
}

// verify takes the API key of a request for the name of its user: a conversation
// answers to the key that opened it only. Whether the key is worth anything is
// asked of the server when a conversation begins; afterwards each call does that.
func (h *Handler) verify(ctx context.Context, key string, r *http.Request) (*auth.TokenInfo, error) {
	if r.Header.Get(sessionHeader) == "" {
		service, err := h.connect(key)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", auth.ErrInvalidToken, err)
		}
		_, err = service.Sessions(ctx, agentsandbox.SessionFilter{Page: agentsandbox.Page{Limit: 1}})
		if code := agentsandbox.CodeOf(err); code == agentsandbox.CodeUnauthorized || code == agentsandbox.CodeForbidden {
			return nil, fmt.Errorf("%w: %s", auth.ErrInvalidToken, sentence(err))
		} else if err != nil {
			return nil, errors.New(sentence(err))
		}
	}
	digest := sha256.Sum256([]byte(key))
	return &auth.TokenInfo{UserID: hex.EncodeToString(digest[:]), Extra: map[string]any{"key": key}}, nil
}

// open begins a conversation; nil refuses it.
func (h *Handler) open(r *http.Request) *sdk.Server {
	info := auth.TokenInfoFromContext(r.Context())
	key, _ := info.Extra["key"].(string)
	service, err := h.connect(key)
	if err != nil {
		return nil
	}
	place, _ := r.Context().Value(openingKey{}).(*opening)
	c := newConversation(context.WithoutCancel(r.Context()), service, h.opts)
	id := agentsandbox.NewID("mcp_")
	server := c.server(h.opts, func(o *sdk.ServerOptions) {
		o.GetSessionID = func() string { return id }
		o.SupportedProtocolVersions = slices.DeleteFunc(sdk.SupportedProtocolVersions(), func(v string) bool { return v >= sessionless })
	})
	var once sync.Once
	server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			if session, ok := req.GetSession().(*sdk.ServerSession); ok {
				once.Do(func() { h.watch(id, &liveConversation{conversation: c, user: info.UserID, session: session}, place) })
			}
			return next(ctx, method, req)
		}
	})
	return server
}
