package mcp

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/modelcontextprotocol/go-sdk/auth"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox"
)

// Bounds of the conversations over HTTP.
const (
	idleConversation = time.Hour
	maxConversations = 1000
	maxRequestBytes  = 16 << 20
)

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
	live     map[string]liveConversation // by id
}

type liveConversation struct {
	*conversation
	user    string
	session *sdk.ServerSession
}

// NewHandler makes a handler. connect returns the Service as the holder of a key
// sees it; it sends nothing yet.
func NewHandler(connect func(key string) (agentsandbox.Service, error), opts Options) *Handler {
	h := &Handler{connect: connect, opts: opts, live: make(map[string]liveConversation)}
	streamable := sdk.NewStreamableHTTPHandler(h.open, &sdk.StreamableHTTPOptions{
		Logger: opts.Logger, SessionTimeout: idleConversation, MaxRequestBodyBytes: maxRequestBytes,
		// A call has one answer and nothing before it. As an event of a stream it
		// could be too large: clients bound those, the official one in Python at 1 MiB.
		JSONResponse: true,
	})
	stopFirst := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodDelete {
			h.stop(r.Header.Get(sessionHeader), auth.TokenInfoFromContext(r.Context()).UserID)
		}
		streamable.ServeHTTP(w, r)
	})
	keyed := auth.RequireBearerToken(h.verify, &auth.RequireBearerTokenOptions{AllowMissingExpiration: true})(stopFirst)
	// A page in somebody's browser must not speak for its reader.
	h.http = http.NewCrossOriginProtection().Handler(keyed)
	return h
}

// ServeHTTP serves one request of a conversation.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) { h.http.ServeHTTP(w, r) }

// Close ends every conversation, with its sandbox, and waits for that.
func (h *Handler) Close() {
	h.mu.Lock()
	h.closed = true
	for _, c := range h.live {
		c.stop()
		// It waits for calls under way, which stop has ended.
		h.watchers.Go(func() { _ = c.session.Close() })
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
	h.mu.Lock()
	full := h.closed || len(h.live) >= maxConversations
	h.mu.Unlock()
	if full {
		h.opts.Logger.Warn("a conversation was refused: there are too many, or the server is stopping", "conversations", maxConversations)
		return nil
	}
	c := newConversation(context.WithoutCancel(r.Context()), service)
	id := agentsandbox.NewID("mcp_")
	server := c.server(h.opts, func(o *sdk.ServerOptions) {
		o.GetSessionID = func() string { return id }
		o.SupportedProtocolVersions = slices.DeleteFunc(sdk.SupportedProtocolVersions(), func(v string) bool { return v >= sessionless })
	})
	var once sync.Once
	server.AddReceivingMiddleware(func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			if session, ok := req.GetSession().(*sdk.ServerSession); ok {
				once.Do(func() { h.watch(id, liveConversation{c, info.UserID, session}) })
			}
			return next(ctx, method, req)
		}
	})
	return server
}

// watch ends the sandbox of a conversation after the conversation.
func (h *Handler) watch(id string, c liveConversation) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.closed {
		c.stop() // its calls end at once, and it gets no sandbox
		return
	}
	h.live[id] = c
	h.watchers.Go(func() {
		_ = c.session.Wait()
		c.end(h.opts.Logger)
		h.mu.Lock()
		delete(h.live, id)
		h.mu.Unlock()
	})
}

// stop ends what runs for a conversation that its user ends: the protocol's own
// end waits for it.
func (h *Handler) stop(id, user string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if c, ok := h.live[id]; ok && c.user == user {
		c.stop()
	}
}
