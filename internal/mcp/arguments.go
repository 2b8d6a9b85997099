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
			if text := unknownArguments(tool, call.Params.Arguments, known); text != "" {
				return &sdk.CallToolResult{Content: []sdk.Content{&sdk.TextContent{Text: text}}, IsError: true}, nil
			}
			return next(ctx, method, req)
		}
	}
}

// unknownArguments names the arguments that a tool does not have; "" if it has all.
func unknownArguments(tool string, raw json.RawMessage, known []string) string {
	var given map[string]json.RawMessage
	if json.Unmarshal(raw, &given) != nil {
		return "" // no object, which the SDK refuses
	}
	var unknown []string
	for _, name := range slices.Sorted(maps.Keys(given)) {
		if !slices.Contains(known, name) {
			unknown = append(unknown, fmt.Sprintf("%q", name))
		}
	}
	if len(unknown) == 0 {
		return ""
	}
	takes := "It takes none."
	if len(known) > 0 {
		takes = "It takes " + strings.Join(known, ", ") + "."
	}
	return fmt.Sprintf("%s has no argument %s. %s", tool, strings.Join(unknown, ", "), takes)
}
