package mcp

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	"github.com/modelcontextprotocol/go-sdk/jsonrpc"
	sdk "github.com/modelcontextprotocol/go-sdk/mcp"
)

// argumentNames are the names of the arguments that a tool's input has.
func argumentNames[In any]() []string {
	var names []string
	for _, field := range reflect.VisibleFields(reflect.TypeFor[In]()) {
		if name, _, _ := strings.Cut(field.Tag.Get("json"), ","); name != "" {
			names = append(names, name)
		}
	}
	return names
}

// explainNames answers calls of tools, and with arguments, that do not exist, and
// says what exists: a model does better at once then. arguments has those of each
// tool that is offered. What else is wrong with arguments, the SDK says.
func explainNames(arguments map[string][]string) sdk.Middleware {
	return func(next sdk.MethodHandler) sdk.MethodHandler {
		return func(ctx context.Context, method string, req sdk.Request) (sdk.Result, error) {
			call, ok := req.(*sdk.CallToolRequest)
			if !ok {
				return next(ctx, method, req)
			}
			tool := call.Params.Name
			known, offered := arguments[tool]
			if !offered {
				return nil, &jsonrpc.Error{
					Code:    jsonrpc.CodeInvalidParams,
					Message: fmt.Sprintf("unknown tool %q; there are %s", tool, strings.Join(slices.Sorted(maps.Keys(arguments)), ", ")),
				}
			}
			unknown := unknownArguments(call.Params.Arguments, known)
			if len(unknown) == 0 {
				return next(ctx, method, req)
			}
			// The SDK refuses such a call by the schema. Its result is used, with our
			// words, because only the SDK can mark a result as newer protocols want it.
			params := *call.Params
			params.Arguments = only(unknown)
			result, err := next(ctx, method, &sdk.CallToolRequest{Session: call.Session, Params: &params, Extra: call.Extra})
			if refused, ok := result.(*sdk.CallToolResult); ok && err == nil {
				refused.Content = []sdk.Content{&sdk.TextContent{Text: explainUnknown(tool, unknown, known)}}
			}
			return result, err
		}
	}
}

// unknownArguments names the arguments that a tool does not have, in order.
func unknownArguments(raw json.RawMessage, known []string) []string {
	var given map[string]json.RawMessage
	if json.Unmarshal(raw, &given) != nil {
		return nil // no object, which the SDK refuses
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known, name) {
			unknown = append(unknown, name)
		}
	}
	return unknown
}

// only is an object with arguments of those names alone, none of them null.
func only(names []string) json.RawMessage {
	values := make(map[string]bool, len(names))
	for _, name := range names {
		values[name] = true
	}
	raw, err := json.Marshal(values)
	if err != nil {
		panic(err) // names that came from JSON go back into it
	}
	return raw
}

func explainUnknown(tool string, unknown, known []string) string {
	quoted := make([]string, len(unknown))
	for i, name := range unknown {
		quoted[i] = fmt.Sprintf("%q", name)
	}
	takes := "It takes none."
	if len(known) > 0 {
		takes = "It takes " + strings.Join(known, ", ") + "."
	}
	return fmt.Sprintf("%s has no argument %s. %s", tool, strings.Join(quoted, ", "), takes)
}
