"""The network device of a sandbox, seen from inside on the real server."""

import json

from server import Server, run

LOOK = """
import json, os, socket, time
def dial(address, port):
    began = time.monotonic()
    try:
        socket.create_connection((address, port), 30).close()
        said = "reached"
    except OSError as e:
        said = e.strerror
    return said, time.monotonic() - began < 10
print(json.dumps({
    "devices": sorted(name for _, name in socket.if_nameindex()),
    "resolver": open("/etc/resolv.conf").read(),
    "loopback": socket.create_server(("127.0.0.1", 0)).getsockname()[0],
    "dialled": [dial(*target) for target in json.loads(os.environ["TARGETS"])],
}))
"""


def look(http, targets) -> dict:
    return json.loads(run(http, LOOK, env_vars={"TARGETS": json.dumps(targets)})["stdout"])


def test_a_device_that_ends_in_the_daemon(server, http):
    port = int(server.url.rsplit(":", 1)[1])
    seen = look(http, [("192.0.0.1", 22), ("192.0.0.1", port), ("169.254.169.254", 80), ("10.0.0.1", port), ("fd00:ec2::254", 80)])
    assert seen["devices"] == ["eth0", "lo"]
    assert seen["resolver"] == "nameserver 192.0.0.1\n"
    assert seen["dialled"] == [["Connection refused", True]] * 5


def test_the_gateway_has_no_open_port_but_the_resolver(http):
    out = run(
        http,
        "import socket\n"
        "open_ = []\n"
        "for port in range(1, 2049):\n"
        "    with socket.socket() as s:\n"
        "        if s.connect_ex(('192.0.0.1', port)) == 0: open_.append(port)\n"
        "print(open_)\n",
    )
    assert out["stdout"] == "[53]\n", out


def test_raw_sockets_are_not_to_be_had(http):
    out = run(
        http,
        "import socket\n"
        "for family, kind, protocol in (socket.AF_INET, socket.SOCK_RAW, 1), (socket.AF_PACKET, socket.SOCK_RAW, 0):\n"
        "    try: socket.socket(family, kind, protocol); print('a socket')\n"
        "    except OSError as e: print(type(e).__name__)\n",
    )
    assert out["stdout"] == "PermissionError\n" * 2, out


def test_off_is_no_device_and_no_resolver(tmp_path):
    s = Server(tmp_path / "data", "--egress-mode=off", "--pool-size=1", "--preload=none").start()
    try:
        with s.http() as http:
            seen = look(http, [("192.0.0.1", 53), ("1.1.1.1", 53), ("2001:db8::1", 80)])
    finally:
        assert s.stop() == 0, s.log_text()
    assert seen["devices"] == ["lo"] and seen["resolver"] == "" and seen["loopback"] == "127.0.0.1"
    assert seen["dialled"] == [["Network is unreachable", True]] * 3
