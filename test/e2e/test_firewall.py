"""What code in a real sandbox reaches of a world in which every address exists, and what of it is heard outside."""

import json
import threading

import pytest
from server import Server, eventually, run
from world import BEHIND, CANARY, HOST4, HOST6, HOST_PRIVATE, SERVER, World

PORT = 8000

# What the programs in the sandbox have in common. Each of them prints one line of JSON.
TOOLS = """
import http.client, json, os, socket, ssl, struct, subprocess
def dial(address, port=80):
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as s:
        s.settimeout(20)
        try: s.connect((address, port)); return "reached"
        except TimeoutError: return "silent"
        except OSError as e: return e.strerror
def resolve(name):
    try: return sorted({a[4][0] for a in socket.getaddrinfo(name, 80, type=socket.SOCK_STREAM)})
    except socket.gaierror: return []
def tls(address, name, port=443):
    context = ssl._create_unverified_context()
    try:
        with socket.create_connection((address, port), 20) as c, context.wrap_socket(c, server_hostname=name) as s: return "ok"
    except TimeoutError: return "silent"
    except OSError: return "cut"
def get(address, host, path="/", port=80, connection=None):
    c = connection or http.client.HTTPConnection(address, port, timeout=20)
    try:
        c.request("GET", path, headers={"Host": host}); r = c.getresponse(); r.read(); return r.status
    except TimeoutError: return "silent"
    except (OSError, http.client.HTTPException): return "cut"
def say(x): print(json.dumps(x))
def given(): return json.loads(os.environ["GIVEN"])
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    w = World(tmp_path_factory.mktemp("world"))
    yield w
    w.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory, world):
    s = Server(tmp_path_factory.mktemp("firewall") / "data", "--pool-size=1", "--preload=none", f"--ca-bundle={world.bundle}",
               f"--egress-dns={world.zone.server}", "--egress-deny=denied.example")  # fmt: skip
    s.url, s.prefix = f"http://{SERVER}:{PORT}", ("nsenter", f"--net=/run/netns/{world.host}")
    s.start()
    yield s
    assert s.stop() == 0, s.log_text()


@pytest.fixture
def http(server, world):
    with server.http() as client:
        yield client
    assert world.surprises() == set()


@pytest.fixture
def session(http):
    """Makes sessions, which end with the test."""
    made = []

    def make(*allow, **kw) -> str:
        if allow:
            kw["network"] = {"mode": "allowlist", "allow": list(allow)}
        r = http.post("/v1/sessions", json=kw)
        assert r.status_code == 201, r.text
        made.append(r.json()["session_id"])
        return made[-1]

    yield make
    for s in made:
        http.delete(f"/v1/sessions/{s}")


def inside(http, session, code, given=None):
    out = run(http, TOOLS + code, session_id=session, env_vars={"GIVEN": json.dumps(given)})
    assert out["return_code"] == 0, out
    return json.loads(out["stdout"])


def refusals(http, session) -> list[tuple[str, str]]:
    log = http.get(f"/v1/sessions/{session}/network").json()["log"]
    return [(e["reason"], e["rule"]) for e in log if e["verdict"] in ("refused", "cut")]


FORBIDDEN = {
    "metadata": ("169.254.169.254", 80), "metadata of containers": ("169.254.170.2", 80), "metadata, version 6": ("fd00:ec2::254", 80),
    "private 10": ("10.0.0.5", 80), "private 172": ("172.16.0.1", 80), "private 192": ("192.168.1.1", 80), "carrier-grade NAT": ("100.64.0.1", 80),
    "link-local": ("169.254.1.1", 80), "benchmarking": ("198.18.0.1", 80), "documentation": ("203.0.113.1", 80), "reserved": ("240.0.0.1", 80), "reserved end": ("255.255.255.254", 80), "this network": ("0.1.2.3", 80), "link-local, version 6": ("fe80::1%eth0", 80),
    
    "multicast": ("224.0.0.1", 80), "multicast of services": ("239.255.255.250", 1900), "multicast, version 6": ("ff0e::1", 80), "broadcast": ("255.255.255.255", 80), "the link's broadcast": ("192.0.0.7", 80), "unique-local": ("fdff::1", 80), "documentation, version 6": ("2001:db8::1", 80),
    "the host's public address": (HOST4, CANARY), "the host's, version 6": (HOST6, CANARY), "the host's private address": (HOST_PRIVATE, CANARY),
    "the API": (SERVER, PORT), "the API's address": (SERVER, CANARY), "the machine behind": (BEHIND, CANARY), "loopback elsewhere": ("127.8.9.1", CANARY),
    "mapped private": ("::ffff:10.0.0.5", 80), "mapped metadata": ("::ffff:169.254.169.254", 80), "mapped host": ("::ffff:" + HOST4, CANARY),
    "compatible private": ("::10.0.0.5", 80), "NAT64 metadata": ("64:ff9b::169.254.169.254", 80), "NAT64 host": ("64:ff9b::" + HOST4, CANARY),
    "6to4 private": ("2002:a00:5::1", 80), "6to4 metadata": ("2002:a9fe:a9fe::1", 80), "Teredo": ("2001:0:5db8:1::f5ff:fffa", 80),
    "ISATAP private": ("2a00:1450::5efe:10.0.0.5", 80),
}  # fmt: skip


def test_addresses_that_are_nobodys_business(http, session, world):
    s = session()
    said = inside(http, s, "say({what: dial(*target) for what, target in given().items()})", FORBIDDEN)
    assert {what: answer for what, answer in said.items() if answer != "Connection refused"} == {}
    assert {reason for reason, _ in refusals(http, s)} == {"range"}
    # And a public one is reached, or all of this would mean nothing.
    public = world.address(80)
    world.expected.add("tcp 2606:2800:220:1::7 80")
    assert inside(http, s, "say([dial(a) for a in given()])", [public, "2606:2800:220:1::7", "::ffff:" + public]) == ["reached"] * 3


def test_every_port_of_the_host_and_of_the_gateway(http, session):
    code = "say([[a, p] for a in given() for p in [*range(1, 1025), 8000, 9000, 9090, 10250] if dial(a, p) == 'reached'])"
    # More attempts in a second than a sandbox may make are refused, too: what counts is that none is answered.
    assert inside(http, session(), code, [HOST4, "192.0.0.1"]) == [["192.0.0.1", 53]]


def test_names_that_point_inside(http, session, world):
    world.zone.names |= {"metadata.example": "169.254.169.254", "intern.example": "10.0.0.5", "own.example": HOST4, "six.example": "fd00:ec2::254", "denied.example": "93.184.200.1"}
    s = session()
    assert inside(http, s, "say([resolve(n) for n in given()])", ["metadata.example", "intern.example", "own.example", "six.example", "denied.example"]) == [[]] * 5
    assert {reason for reason, _ in refusals(http, s)} == {"range", "denied"}
    assert not any(name == "denied.example" for name, _ in world.zone.asked)


def test_a_name_that_is_public_first_and_private_then(http, session, world):
    s, public = session("rebind.example"), world.name("rebind.example", 80)
    assert inside(http, s, "say([resolve('rebind.example'), get('rebind.example', 'rebind.example')])") == [[public], 200]
    for private in "169.254.169.254", HOST4, "10.0.0.5":
        world.zone.names["rebind.example"] = private
        # The answer is remembered for a moment.
        code = "import time\nend = time.monotonic() + 60\nwhile (seen := resolve('rebind.example')) == given()[:1] and time.monotonic() < end: time.sleep(0.5)\nsay([seen, dial(given()[1])])"
        assert inside(http, s, code, [public, private]) == [[], "Connection refused"]


def test_a_redirect_to_the_inside(http, session, world):
    s = session()
    world.name("redirect.example", 80)
    world.zone.names["hidden.example"] = "169.254.169.254"
    code = "say([subprocess.run(['curl', '-sSL', '--max-time', '30', '-o', '/dev/null', 'http://redirect.example/to?' + to]).returncode for to in given()])"
    to = ["http://169.254.169.254/latest/", f"http://{HOST4}:{CANARY}/", f"http://{SERVER}:{PORT}/healthz", "http://[::ffff:10.0.0.5]/", "http://hidden.example/"]
    # 7: could not connect, 6: could not resolve.
    assert inside(http, s, code, to) == [7, 7, 7, 7, 6]
    assert len([1 for host, _ in world.web.seen if host == "redirect.example"]) == 5


def test_the_name_in_tls_must_be_that_of_the_address(http, session, world):
    s, address = session("mine.example", "*.wild.example"), world.name("mine.example", 443)
    other = world.name("a.wild.example", 443)
    said = inside(http, s, "a, other = given()\nresolve('mine.example'); resolve('a.wild.example')\n"
                  "say([tls(a, 'mine.example'), tls(a, 'other.example'), tls(a, None), tls(a, 'a.wild.example'), tls(other, 'mine.example'), tls(other, 'a.wild.example')])", [address, other])  # fmt: skip
    assert said == ["ok", "cut", "cut", "cut", "cut", "ok"]
    assert set(world.sni) == {"mine.example", "a.wild.example"}, "another name arrived outside"
    assert [reason for reason, _ in refusals(http, s)] == ["name"] * 4


def test_a_name_that_is_not_allowed_is_told_in_tls(http, session, world):
    s, address = session("told.example"), world.name("told.example", 443)
    code = "resolve('told.example')\nsay(subprocess.run(['curl', '-sS', '--max-time', '20', '--resolve', 'other.example:443:' + given(), 'https://other.example/'], stderr=subprocess.PIPE, text=True).stderr)"
    assert "access denied" in inside(http, s, code, address)
    assert [reason for reason, _ in refusals(http, s)] == ["name"]


def test_plain_http_that_is_hard_to_judge(http, session, world):
    s, address = session("hard.example"), world.name("hard.example", 8080)
    world.web8080.seen.clear()
    code = r"""
a = given(); resolve("hard.example")
def raw(*parts):
    with socket.create_connection((a, 8080), 20) as c:
        try:
            for part in parts: c.sendall(part)
            return c.makefile("rb").read()[9:12].decode()
        except OSError: return "cut"
host = b"Host: stolen.example\r\n\r\n"
say([raw(b"BREW / HTTP/1.1\r\n", host), raw(b"BREW /" + b"a" * 20000, b" HTTP/1.1\r\n" + host), raw(b"M-SEARCH /\xe9", b" HTTP/1.1\r\n" + host),
     raw(b"hello\r\n", b"GET / HTTP/1.1\r\n" + host), raw(b"GET\x0b/\x0bHTTP/1.1\r\n" + host), raw(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
     raw(b"GET / HTTP/1.1\r\nHost: hard.example\r\n\r\nBREW / HTTP/1.1\r\n" + host)])
"""
    said = inside(http, s, code, address)
    assert said[-1] == "200" and "200" not in said[:-1] and said[0] == "403" and said[5] == "403", said
    assert {host for host, _ in world.web8080.seen} == {"hard.example"}


def test_the_host_of_a_request_must_be_that_of_the_address(http, session, world):
    s, address = session("web.example"), world.name("web.example", 80)
    world.web.seen.clear()
    code = """
a = given(); resolve("web.example")
kept = http.client.HTTPConnection(a, 80, timeout=20)
said = [get(a, "web.example"), get(a, "other.example"), get(a, a), get(a, "web.example", connection=kept), get(a, "other.example", connection=kept)]
def raw(text):
    with socket.create_connection((a, 80), 20) as c:
        c.sendall(text.encode())
        try: return c.makefile("rb").readline().decode()[9:12]
        except OSError: return "cut"
said += [raw("CONNECT web.example:443 HTTP/1.1\\r\\nHost: web.example\\r\\n\\r\\n"), raw("GET http://other.example/ HTTP/1.1\\r\\nHost: web.example\\r\\n\\r\\n"),
         raw("PRI * HTTP/2.0\\r\\n\\r\\nSM\\r\\n\\r\\n"), raw("GET / HTTP/1.1\\r\\nHost: web.example\\r\\nHost: other.example\\r\\n\\r\\n"), raw("\\x00\\x01 hello\\r\\n")]
say(said)
"""
    assert inside(http, s, code, address) == [200, 403, 403, 200, 403, "403", "403", "403", "400", ""]
    assert {host for host, _ in world.web.seen} == {"web.example"}


def test_a_sandbox_that_lies_to_itself_about_names(http, session, world):
    s, address = session("mine.example"), world.name("mine.example", 443)
    elsewhere = world.address()
    code = """
a, elsewhere = given(); resolve("mine.example")
def write(path, text):
    try: open(path, "a").write(text); return "written"
    except OSError as e: return type(e).__name__
written = [write("/etc/hosts", elsewhere + " mine.example\\n"), write("/etc/resolv.conf", "nameserver " + elsewhere + "\\n")]
curl = lambda *args: subprocess.run(["curl", "-ksS", "--max-time", "20", "-o", "/dev/null", *args], stderr=subprocess.DEVNULL).returncode
def ask(server):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
        c.settimeout(2); query = b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x04mine\\x07example\\0\\0\\x01\\0\\x01"
        try: c.connect((server, 53)); c.send(query); return len(c.recv(512)) > 0
        except OSError: return False
say([written, curl("https://mine.example/"), curl("--resolve", "mine.example:443:" + elsewhere, "https://mine.example/"), curl("--connect-to", "::" + elsewhere + ":", "https://mine.example/"),
     ask("192.0.0.1"), ask(elsewhere), dial(elsewhere, 53), dial(elsewhere, 853)])
"""
    written, right, lied, other, ours, theirs, *tcp = inside(http, s, code, [address, elsewhere])
    assert right == 0 and lied == 7 and other == 7
    assert ours and not theirs and tcp == ["Connection refused"] * 2
    assert len(written) == 2  # whether it may write them is its own business
    # By default, too, there is no other resolver.
    assert inside(http, session(), "say([dial(given(), 53), dial(given(), 853)])", elsewhere) == ["Connection refused"] * 2


def test_what_names_can_carry_out_is_bounded(http, session, world):
    world.zone.names["tunnel.example"] = world.address()
    s = session()
    code = """
for i in range(600): resolve(f"chunk{i}.tunnel.example")
def ask(kind):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as c:
        c.settimeout(5); c.connect(("192.0.0.1", 53))
        c.send(b"\\x12\\x34\\x01\\0\\0\\x01\\0\\0\\0\\0\\0\\0\\x04text\\x06tunnel\\x07example\\0" + struct.pack(">HH", kind, 1))
        return struct.unpack(">H", c.recv(512)[6:8])[0]
said = [ask(16), ask(15), ask(65), ask(10)]
import time
end = time.monotonic() + 60  # until as many queries may be sent again
while not (other := resolve("else.example")) and time.monotonic() < end: time.sleep(0.5)
say([*said, other])
"""
    other = world.name("else.example")
    assert inside(http, s, code) == [0, 0, 0, 0, [other]]
    assert world.zone.count("tunnel.example") <= 300
    assert {kind for name, kind in world.zone.asked if name.endswith("tunnel.example")} <= {1, 28}, "another type was asked for outside"
    assert "limit" in {reason for reason, _ in refusals(http, s)}


def test_a_name_that_is_not_allowed_is_not_asked_for(http, session, world):
    s = session("mine.example")
    world.zone.names["secret-data.attacker.example"] = world.address()
    assert inside(http, s, "say([resolve(n) for n in given()])", ["secret-data.attacker.example", "attacker.example", "x.mine.example"]) == [[]] * 3
    assert not any("attacker" in name or name == "x.mine.example" for name, _ in world.zone.asked)


def test_only_the_ports_that_are_listed(http, session, world):
    s, address = session("ported.example:80", "93.184.250.0/24:8080"), world.name("ported.example", 80)
    world.expected.add("tcp 93.184.250.7 8080")
    assert inside(http, s, "a = resolve('ported.example')[0]; say([dial(a, 80), dial(a, 8080), dial('93.184.250.7', 8080), get('93.184.250.7', 'ported.example'), dial('93.184.251.7', 8080)])") == [
        "reached", "Connection refused", "reached", 403, "Connection refused"]  # fmt: skip
    assert address == world.zone.names["ported.example"]


def test_ways_past_tcp(http, session, world):
    code = """
def make(*kind):
    try: socket.socket(*kind).close(); return "made"
    except OSError as e: return type(e).__name__
def send(address, port):
    with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM) as c:
        c.settimeout(1)
        try: c.connect((address, port)); c.send(b"hello"); c.recv(1); return "answered"
        except OSError: return "nothing"
def ping(address):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP) as c:
        c.settimeout(1)
        try: c.sendto(b"\\x08\\0\\0\\0\\0\\x01\\0\\x01", (address, 0)); c.recv(64); return "answered"
        except OSError: return "nothing"
say([[make(socket.AF_INET, socket.SOCK_RAW, p) for p in (1, 6, 17, 255)] + [make(socket.AF_PACKET, socket.SOCK_RAW, 0), make(socket.AF_INET6, socket.SOCK_RAW, 58)],
     [send(*to) for to in given()], [ping(a) for a, _ in given()[:2]]])
"""
    to = [[world.address(), 9], [HOST4, CANARY], [world.address(), 53], [world.address(), 443], ["239.255.255.250", 1900], ["2606:2800:220:1::9", 443]]
    raw, sent, pinged = inside(http, session(), code, to)
    assert raw == ["PermissionError"] * 6
    assert sent == ["nothing"] * 6 and pinged == ["nothing"] * 2


def test_off_cuts_all_that_is_open(http, session, world):
    s, address = session(), world.address(80, 443, 8080)
    code = """
import threading
a = given(); ends = {}
def hold(what, port, context=None):
    c = socket.create_connection((a, port), 20)
    if context: c = context.wrap_socket(c, server_hostname="drip.example")
    c.sendall(b"GET /drip HTTP/1.1\\r\\nHost: drip.example\\r\\n\\r\\n"); c.recv(12); c.settimeout(60)
    def wait():
        try:
            while c.recv(65536): pass
            ends[what] = "end"
        except TimeoutError: ends[what] = "silent"
        except OSError: ends[what] = "end"
    t = threading.Thread(target=wait); t.start(); return t
held = [hold("http", 80), hold("https", 443, ssl._create_unverified_context()), hold("another port", 8080)]
open("/workspace/open", "w").close()
for t in held: t.join()
say([ends, dial(a, 443), get(a, "drip.example"), resolve("drip.example")])
"""
    said = []
    t = threading.Thread(target=lambda: said.append(inside(http, s, code, address)))
    t.start()
    assert eventually(lambda: http.get(f"/v1/sessions/{s}/fs/stat", params={"path": "/workspace/open"}).status_code == 200)
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "off"}).status_code == 200
    t.join(90)
    assert said == [[{"http": "end", "https": "end", "another port": "end"}, "Connection refused", 403, []]]
    assert http.get(f"/v1/sessions/{s}/network").json()["open_connections"] == 0


def test_a_new_policy_cuts_what_is_open(http, session, world):
    s, address = session(), world.name("drip.example", 80)
    code = """
c = socket.create_connection(("drip.example", 80)); c.sendall(b"GET /drip HTTP/1.1\\r\\nHost: drip.example\\r\\n\\r\\n")
first = c.recv(12).decode(); open("/workspace/open", "w").close()
try:
    while c.recv(65536): pass
except OSError: pass
say([first, dial(given(), 443), get(given(), "drip.example"), resolve("drip.example")])
"""
    said = []
    t = threading.Thread(target=lambda: said.append(inside(http, s, code, address)))
    t.start()
    assert eventually(lambda: http.get(f"/v1/sessions/{s}/fs/stat", params={"path": "/workspace/open"}).status_code == 200)
    assert http.put(f"/v1/sessions/{s}/network", json={"mode": "allowlist", "allow": ["mine.example"]}).status_code == 200
    t.join(60)
    assert said == [["HTTP/1.1 200", "Connection refused", 403, []]]
    assert any(rule.startswith("policy replaced") for _, rule in refusals(http, s))


def test_off_reaches_nothing_at_all(http, session, world):
    address = world.address()
    said = inside(http, session(network={"mode": "off"}), "say([dial(given()), dial('192.0.0.1', 53), resolve('mine.example'), sorted(n for _, n in socket.if_nameindex())])", address)
    assert said == ["Network is unreachable", "Network is unreachable", [], ["lo"]]
