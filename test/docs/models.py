"""A stand-in for the providers of models: it speaks the wire formats of OpenAI
(responses and chat completions) and Anthropic, as far as tool calling goes, and
refuses what the providers would. Its model knows two questions, asks for the tool
that it is offered, and answers from what the tool said.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

SUM = "print(sum(n * n for n in range(1, 101)))"
PLOT = """
import matplotlib.pyplot as plt
squares = [n * n for n in range(1, 11)]
plt.plot(squares); plt.savefig("squares.png")
print(squares[-1])
"""


class Refused(Exception):
    """What a provider answers with 400."""


def need(condition: object, message: str) -> None:
    if not condition:
        raise Refused(message)


def code_for(question: str) -> str:
    need(isinstance(question, str), "the question is no text")
    return PLOT if "Plot" in question else SUM


def sentence(text: str, images: int = 0) -> str:
    """The answer, from what the tool said."""
    need("succeeded" in text, f"the tool failed: {text}")
    number = re.findall(r"\d+", text.replace("exit code 0", ""))
    need(number, f"the tool said no number: {text}")
    return f"The last one is {number[0]}, as the plot shows." if images else f"The sum is {number[0]}."


def offered(name: object, schema: object) -> str:
    """Check a tool and return its name."""
    need(isinstance(name, str) and re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", name), f"no name of a tool: {name!r}")
    need(isinstance(schema, dict) and schema.get("type") == "object", "the schema of a tool must be of an object")
    need(list(schema["properties"]) == ["code"] and schema["required"] == ["code"], "the tool takes no code")
    return name


def responses(body: dict) -> dict:
    tools = [t for t in body["tools"] if t["type"] == "function"]
    name = offered(tools[0]["name"], tools[0]["parameters"])
    last = body["input"][-1]
    if last.get("type") == "function_call_output":
        calls = {item["call_id"] for item in body["input"] if item.get("type") == "function_call"}
        need(last["call_id"] in calls, "No tool call found for function call output")
        seen = json.loads(last["output"])
        content = [{"type": "output_text", "text": sentence(f"{seen['status']} {seen['stdout']}"), "annotations": []}]
        item = {"type": "message", "id": "msg_1", "role": "assistant", "status": "completed", "content": content}
    else:
        arguments = json.dumps({"code": code_for(last["content"])})
        item = {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": name, "arguments": arguments, "status": "completed"}
    return {
        "id": "resp_1", "object": "response", "created_at": 1, "status": "completed", "model": body["model"], "output": [item],
        "parallel_tool_calls": True, "tool_choice": "auto", "tools": body["tools"],
    }  # fmt: skip


def chat(body: dict) -> dict:
    name = offered(body["tools"][0]["function"]["name"], body["tools"][0]["function"]["parameters"])
    last = body["messages"][-1]
    if last["role"] == "tool":
        calls = [c["id"] for m in body["messages"] for c in m.get("tool_calls") or []]
        need(last["tool_call_id"] in calls, "messages with role 'tool' must be a response to a preceding message with 'tool_calls'")
        message, reason = {"role": "assistant", "content": sentence(last["content"])}, "stop"
    else:
        function = {"name": name, "arguments": json.dumps({"code": code_for(last["content"])})}
        message = {"role": "assistant", "content": None, "tool_calls": [{"id": "call_1", "type": "function", "function": function}]}
        reason = "tool_calls"
    return {
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": body["model"],
        "choices": [{"index": 0, "message": message, "finish_reason": reason}],
        "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
    }  # fmt: skip


def messages(body: dict) -> dict:
    need(body["max_tokens"] > 0, "max_tokens: Field required")
    name = offered(body["tools"][0]["name"], body["tools"][0]["input_schema"])
    last = body["messages"][-1]
    need(last["role"] == "user", "the last message must be of the user")
    if isinstance(last["content"], list) and last["content"][0]["type"] == "tool_result":
        result = last["content"][0]
        calls = [b["id"] for m in body["messages"] if m["role"] == "assistant" for b in m["content"] if b["type"] == "tool_use"]
        need(result["tool_use_id"] in calls, "unexpected `tool_use_id` found in `tool_result` blocks")
        text = "".join(b["text"] for b in result["content"] if b["type"] == "text")
        images = [base64.b64decode(b["source"]["data"]) for b in result["content"] if b["type"] == "image"]
        need(all(i.startswith(b"\x89PNG") for i in images), "Image does not match the provided media type image/png")
        content, reason = [{"type": "text", "text": sentence(text, len(images))}], "end_turn"
    else:
        content = [{"type": "text", "text": "I run it."}, {"type": "tool_use", "id": "toolu_1", "name": name, "input": {"code": code_for(last["content"])}}]
        reason = "tool_use"
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": content,
        "stop_reason": reason, "stop_sequence": None, "usage": {"input_tokens": 1, "output_tokens": 1},
    }  # fmt: skip


ROUTES = {"/v1/responses": responses, "/v1/chat/completions": chat, "/v1/messages": messages}


class Handler(BaseHTTPRequestHandler):
    """One request to a provider."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        reply = ROUTES.get(self.path)
        try:
            need(reply, f"there is no route {self.path}")
            keys = {self.headers["Authorization"], self.headers["X-Api-Key"]}  # Anthropic's packages have used both
            need(keys & {"Bearer model-key", "model-key"}, "the key is missing")
            status, answer = 200, reply(json.loads(body))
        except (Refused, KeyError, IndexError, TypeError, ValueError) as e:
            status, answer = 400, {"type": "error", "error": {"type": "invalid_request_error", "message": f"{type(e).__name__}: {e}"}}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


class Models:
    """The providers, at one address, for as long as a with block lasts."""

    def __enter__(self) -> str:
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever)
        self.thread.start()
        return f"http://127.0.0.1:{self.server.server_port}"

    def __exit__(self, *_: object) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join()
