package mcp

import (
	"strings"
	"testing"

	sdk "github.com/modelcontextprotocol/go-sdk/mcp"

	"github.com/agentsandbox/agentsandbox/client/clienttest"
)

func TestWhatDoesNotExistIsAnsweredWithWhatDoes(t *testing.T) {
	client, end := converse(t, &clienttest.Service{})
	defer end()
	for _, c := range []struct {
		tool      string
		arguments map[string]any
		want      string
	}{
		{"execute_bash", map[string]any{"command": "ls"}, `execute_bash has no argument "command". It takes code, session_id, timeout_ms, env_vars, file_ids,`},
		{"execute_python", map[string]any{"code": "1", "Code": "2", "timeout": 5}, `execute_python has no argument "Code", "timeout". It takes code,`},
		{"write_file", map[string]any{"path": "/workspace/a", "content": "x"}, `write_file has no argument "content". It takes path, text, base64, session_id.`},
		{"download_file", map[string]any{"path": "/workspace/a"}, `download_file has no argument "path". It takes file_id, max_bytes.`},
		{"list_files", map[string]any{"dir": nil}, `list_files has no argument "dir".`},
		{"create_session", map[string]any{"memory": 64}, `create_session has no argument "memory". It takes env_vars,`},
		{"execute_python", map[string]any{}, `missing properties: ["code"]`},
	} {
		blocks, failed := call(t, client, c.tool, c.arguments)
		if !failed || len(blocks) != 1 || !strings.Contains(blocks[0], c.want) {
			t.Errorf("%s %v: %q (failed: %t), want %q", c.tool, c.arguments, blocks, failed, c.want)
		}
	}
	_, err := client.CallTool(t.Context(), &sdk.CallToolParams{Name: "execute_py"})
	if err == nil || !strings.Contains(err.Error(), `unknown tool "execute_py"; there are create_session, delete_session, download_file, execute_bash,`) {
		t.Errorf("an unknown tool: %v", err)
	}
}

func TestTheNamesOfArgumentsAreThoseOfTheSchemas(t *testing.T) {
	client, end := converse(t, &clienttest.Service{})
	defer end()
	c := newConversation(t.Context(), &clienttest.Service{}, quiet)
	c.server(quiet, nil)
	for tool, err := range client.Tools(t.Context(), nil) {
		if err != nil {
			t.Fatal(err)
		}
		schema, ok := tool.InputSchema.(map[string]any)
		if !ok {
			t.Fatalf("%s: a schema of type %T", tool.Name, tool.InputSchema)
		}
		properties, _ := schema["properties"].(map[string]any)
		names := c.arguments[tool.Name]
		for _, name := range names {
			if _, ok := properties[name]; !ok {
				t.Errorf("%s: the schema has no %q", tool.Name, name)
			}
		}
		if len(names) != len(properties) {
			t.Errorf("%s: %q are %d names, and the schema has %d", tool.Name, names, len(names), len(properties))
		}
	}
}
