"""A host and an outside of their own, in two network namespaces, where every address exists and every packet is heard.

The server runs in the first, the host. The only way out of it leads to the
second, where all addresses are at home: whatever a firewall lets out arrives
there, and nowhere else. Nothing reaches a real network.
"""

import ctypes
import http.server
import json
import os
import socket
import ssl
import struct
import subprocess
import threading
import urllib.parse

from outside import Names, authority

# Of the host in the namespace; the last one is for the test to talk to the server.
HOST4, HOST6, HOST_PRIVATE, SERVER = "45.90.0.1", "2a0e:1::1", "10.77.0.1", "198.18.79.2"
# Of this machine, towards the host, and of the outside.
BEHIND, OUTSIDE4, OUTSIDE6 = "198.18.79.1", "45.90.0.2", "2a0e:1::2"
CANARY = 9000
SYN, ACK = 0x02, 0x10


def ip(command: str) -> None:
    subprocess.run(["ip", *command.split()], check=True, capture_output=True, text=True)


def within(namespace: str, what):
    """Calls what in a namespace, to which the sockets that it makes belong."""
    made = []

    def call():
        libc = ctypes.CDLL(None, use_errno=True)
        with open(f"/run/netns/{namespace}") as ns:
            if libc.setns(ns.fileno(), 0x40000000):
                raise OSError(ctypes.get_errno(), "setns")
        made.append(what())

    t = threading.Thread(target=call)
    t.start()
    t.join()
    return made[0]


class Zone(Names):
    """The name server of the outside. It asks nobody."""

    def __init__(self):
        self.names, self.asked = {}, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((OUTSIDE4, 53))
        self.server = OUTSIDE4 + ":53"
        threading.Thread(target=self.serve, daemon=True).start()

    def answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        question, name = query[12 : at + 5], ".".join(labels).lower()
        (kind,) = struct.unpack(">H", query[at + 1 : at + 3])
        self.asked.append((name, kind))
        address = self.names.get(name)
        family, wanted, size = (socket.AF_INET6, 28, 16) if address and ":" in address else (socket.AF_INET, 1, 4)
        found = address is not None and kind == wanted
        head = query[:2] + (b"\x81\x80" if address else b"\x81\x83") + struct.pack(">HHHH", 1, int(found), 0, 0) + question
        return head + (b"\xc0\x0c" + struct.pack(">HHIH", wanted, 1, 1, size) + socket.inet_pton(family, address) if found else b"")

    def count(self, below: str) -> int:
        return len({name for name, _ in self.asked if name.endswith("." + below)})


class Site(http.server.ThreadingHTTPServer):
    """A web server on every address of the outside; /to?URL redirects, /drip never ends."""

    address_family, daemon_threads = socket.AF_INET6, True

    def __init__(self, port: int, context: ssl.SSLContext | None = None):
        super().__init__(("::", port), Page)
        self.seen = []  # host and path of each request
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True, do_handshake_on_connect=False)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def handle_error(self, request, client_address):
        pass  # a firewall cuts connections

    def close(self):
        self.shutdown()
        self.server_close()


class Page(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_GET(self):
        self.server.seen.append((self.headers.get("Host"), self.path))
        where, _, to = self.path.partition("?")
        body = json.dumps({"host": self.headers.get("Host"), "path": self.path}).encode()
        self.send_response(302 if where == "/to" else 200)
        if where == "/to":
            self.send_header("Location", urllib.parse.unquote(to))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        if where == "/drip":
            self.rfile.read(1)  # until the other side goes away
            self.close_connection = True

    def log_message(self, *_):
        pass


class Recorder:
    """Hears every packet on an interface that begins something: a SYN, a datagram, a ping."""

    def __init__(self, device: str):
        self.heard: dict[str, int] = {}
        self.news = threading.Condition()
        self.socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(3))
        self.socket.setsockopt(socket.SOL_SOCKET, 33, 64 << 20)  # SO_RCVBUFFORCE
        self.socket.bind((device, 3))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                packet = self.socket.recv(65536)
            except OSError:
                return  # closed
            if what := opens(packet):
                with self.news:
                    self.heard[what] = self.heard.get(what, 0) + 1
                    self.news.notify_all()

    def close(self):
        self.socket.close()


def opens(packet: bytes) -> str | None:
    """What a packet begins, and where; None for one that goes on with something, or is the kernel's own."""
    if packet[0] >> 4 == 4 and len(packet) >= 20:
        to, protocol, rest = socket.inet_ntop(socket.AF_INET, packet[16:20]), packet[9], packet[(packet[0] & 15) * 4 :]
    elif packet[0] >> 4 == 6 and len(packet) >= 40:
        to, protocol, rest = socket.inet_ntop(socket.AF_INET6, packet[24:40]), packet[6], packet[40:]
    else:
        return None
    if protocol == socket.IPPROTO_TCP:
        port, flags = struct.unpack(">H", rest[2:4])[0], rest[13]
        return f"tcp {to} {port}" if flags & SYN and not flags & ACK else None
    if protocol == socket.IPPROTO_UDP:
        source, port = struct.unpack(">HH", rest[:4])
        return None if source == 53 else f"udp {to} {port}"
    if protocol in (socket.IPPROTO_ICMP, socket.IPPROTO_ICMPV6):
        return f"ping {to}" if rest[0] == (8 if protocol == socket.IPPROTO_ICMP else 128) else None
    return None if protocol == 0 else f"protocol {protocol} {to}"  # 0: multicast reports of IPv6


class Canary:
    """Listens where no sandbox must arrive."""

    def __init__(self, address: str):
        self.visits, self.address = 0, address
        self.listener = socket.create_server((address, CANARY), family=socket.AF_INET6 if ":" in address else socket.AF_INET)
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return  # closed
            self.visits += 1
            connection.close()

    def close(self):
        self.listener.close()


class World:
    def __init__(self, directory):
        self.host, self.outside = f"asbx-h{os.getpid()}", f"asbx-w{os.getpid()}"
        self.parts, self.canaries = [], []
        try:
            self.wire(f"asbx{os.getpid() % 10**7}n")
            self.settle(directory)
        except BaseException:
            self.close()
            raise

    def wire(self, near: str):
        for line in (
            f"netns add {self.host}", f"netns add {self.outside}",
            f"link add outside netns {self.host} type veth peer name outside netns {self.outside}",
            f"link add {near} type veth peer name near netns {self.host}",
            *(f"-n {ns} link set {device} up" for ns in (self.host, self.outside) for device in ("lo", "outside")),
            f"link set {near} up", f"-n {self.host} link set near up", f"addr add {BEHIND}/30 dev {near}",
            f"-n {self.host} addr add {SERVER}/30 dev near", f"-n {self.host} addr add {HOST4}/24 dev outside",
            f"-n {self.outside} addr add {OUTSIDE4}/24 dev outside", f"-n {self.host} addr add {HOST_PRIVATE}/32 dev lo",
            f"-n {self.host} -6 addr add {HOST6}/64 dev outside nodad", f"-n {self.outside} -6 addr add {OUTSIDE6}/64 dev outside nodad",
            f"-n {self.host} route add default via {OUTSIDE4}", f"-n {self.host} -6 route add default via {OUTSIDE6}",
            f"-n {self.outside} route add local 0.0.0.0/0 dev lo table main", f"-n {self.outside} -6 route add local ::/0 dev lo table main",
        ):  # fmt: skip
            ip(line)

    def settle(self, directory):
        self.bundle, context = authority(directory, "*.example", "*.wild.example")
        self.sni = []
        context.sni_callback = lambda _s, name, _c: self.sni.append(name)
        self.zone = self.keep(within(self.outside, Zone))
        self.web, self.web8080 = (self.keep(within(self.outside, lambda port=port: Site(port))) for port in (80, 8080))
        self.tls = self.keep(within(self.outside, lambda: Site(443, context)))
        self.recorder = self.keep(within(self.outside, lambda: Recorder("outside")))
        self.loopback = self.keep(within(self.host, lambda: Recorder("lo")))
        self.canaries += [self.keep(within(self.host, lambda a=a: Canary(a))) for a in ("127.0.0.1", "::1", HOST4, HOST6, HOST_PRIVATE, SERVER)]
        self.canaries.append(self.keep(Canary(BEHIND)))
        self.marker = self.keep(within(self.host, lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM)))
        self.expected = {f"udp {OUTSIDE4} 53", f"tcp {OUTSIDE4} 53", f"udp {OUTSIDE4} 9"}
        self.fresh = 0

    def keep(self, part):
        self.parts.append(part)
        return part

    def address(self, *ports: int) -> str:
        """A public address of which nothing else knows, and that may be reached at these ports alone."""
        self.fresh += 1
        address = f"93.184.{self.fresh >> 8}.{self.fresh & 255}"
        self.expected |= {f"tcp {address} {port}" for port in ports}
        return address

    def name(self, name: str, *ports: int) -> str:
        """A name with an address of its own."""
        self.zone.names[name] = self.address(*ports)
        return self.zone.names[name]

    def surprises(self) -> set[str]:
        """What was heard, up to now, and should not have been sent."""
        mark, heard = f"udp {OUTSIDE4} 9", self.recorder.heard
        before = heard.get(mark, 0)
        self.marker.sendto(b"", (OUTSIDE4, 9))
        with self.recorder.news:
            assert self.recorder.news.wait_for(lambda: heard.get(mark, 0) > before, 20), "the recorder is deaf"
            found = set(heard) - self.expected
        reached = {f"canary {c.address}" for c in self.canaries if c.visits}
        return found | reached | {"loopback " + what for what in self.loopback.heard}

    def close(self):
        for part in self.parts:
            part.close()
        for namespace in (self.host, self.outside):
            subprocess.run(["ip", "netns", "del", namespace], capture_output=True)  # the links go with it
