"""What stands outside of a sandbox: a name server, web servers, a certificate authority."""

import ctypes
import http.server
import json
import os
import re
import socket
import ssl
import struct
import subprocess
import threading
import urllib.parse
import urllib.request
from pathlib import Path

# Where the web servers are: in a network namespace, in a range for tests of
# devices. It is reserved: sandboxes reach it only where the operator opens it.
HOST, ADDRESS, LINK = "198.18.77.1", "198.18.77.2", "asbx-e2e"


class Namespace:
    """A network namespace with one address, which this machine reaches and nothing else."""

    def __init__(self):
        self.name = f"{LINK}-{os.getpid()}"
        host, peer = f"asbx{os.getpid() % 10**7}h", f"asbx{os.getpid() % 10**7}p"
        for command in (
            f"netns add {self.name}", f"link add {host} type veth peer name {peer} netns {self.name}",
            f"addr add {HOST}/30 dev {host}", f"link set {host} up",
            f"-n {self.name} addr add {ADDRESS}/30 dev {peer}", f"-n {self.name} link set {peer} up",
        ):  # fmt: skip
            subprocess.run(["ip", *command.split()], check=True)

    def make(self, what):
        """Calls what in the namespace, to which its sockets belong from then on."""
        made = []

        def call():
            libc = ctypes.CDLL(None, use_errno=True)
            with open(f"/run/netns/{self.name}") as ns:
                if libc.setns(ns.fileno(), 0x40000000):
                    raise OSError(ctypes.get_errno(), "setns")
            made.append(what())

        t = threading.Thread(target=call)
        t.start()
        t.join()
        return made[0]

    def close(self):
        subprocess.run(["ip", "netns", "del", self.name], check=True)  # the link goes with it


class Names:
    """A name server: its own names, and those of this machine's resolver."""

    def __init__(self, names: dict[str, str]):
        self.names, self.asked = names, []
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind(("127.0.0.1", 0))
        self.server = "127.0.0.1:%d" % self.socket.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        while True:
            try:
                query, client = self.socket.recvfrom(4096)
            except OSError:
                return  # closed
            self.socket.sendto(self.answer(query), client)

    def answer(self, query: bytes) -> bytes:
        labels, at = [], 12
        while query[at]:
            labels.append(query[at + 1 : at + 1 + query[at]].decode())
            at += 1 + query[at]
        end = at + 5
        name, (kind,) = ".".join(labels).lower(), struct.unpack(">H", query[at + 1 : at + 3])
        self.asked.append(name)
        address = self.names.get(name)
        if address is None:
            try:
                address = socket.getaddrinfo(name, None, socket.AF_INET, socket.SOCK_STREAM)[0][4][0]
            except OSError:
                return query[:2] + b"\x81\x83" + struct.pack(">HHHH", 1, 0, 0, 0) + query[12:end]
        found = kind == 1
        head = query[:2] + b"\x81\x80" + struct.pack(">HHHH", 1, int(found), 0, 0) + query[12:end]
        return head + (b"\xc0\x0c" + struct.pack(">HHIH", 1, 1, 60, 4) + socket.inet_aton(address) if found else b"")

    def close(self):
        self.socket.close()


class Web:
    """A web server that says what it was asked, as JSON; / is a page, /drip never ends."""

    def __init__(self, port: int = 0, context: ssl.SSLContext | None = None):
        seen = self.seen = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                seen.append((self.path, dict(self.headers)))
                if self.path == "/":
                    body, kind = b"<html><head><title>Example Domain</title></head></html>", "text/html"
                else:
                    body, kind = json.dumps({"path": self.path, "headers": dict(self.headers)}).encode(), "application/json"
                self.send_response(200)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)
                if self.path == "/drip":
                    self.rfile.read(1)  # until the other side goes away
                    self.close_connection = True

            def log_message(self, *_):
                pass

        self.server = http.server.ThreadingHTTPServer((ADDRESS, port), Handler)
        self.server.daemon_threads = True
        if context:
            self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


def authority(directory: Path, *names: str) -> tuple[Path, ssl.SSLContext]:
    """A bundle with a new authority and those of this machine, and a server of those names."""

    def openssl(*args):
        subprocess.run(["openssl", *args], cwd=directory, check=True, capture_output=True)

    openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=test authority",
            "-addext", "keyUsage=critical,keyCertSign", "-keyout", "ca.key", "-out", "ca.pem")  # fmt: skip
    openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", "/CN=" + names[0], "-keyout", "leaf.key", "-out", "leaf.csr")
    (directory / "leaf.ext").write_text("subjectAltName=" + ",".join("DNS:" + name for name in names))
    openssl("x509", "-req", "-in", "leaf.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "1", "-extfile", "leaf.ext", "-out", "leaf.pem")
    bundle = directory / "bundle.pem"
    own = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt"
    bundle.write_text(Path(own).read_text() + "\n" + (directory / "ca.pem").read_text())
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "leaf.pem", directory / "leaf.key")
    return bundle, context


def package_index(package: str) -> tuple[str, set[str]]:
    """The index that pip on this machine uses, and the hosts that it needs for a package."""
    said = subprocess.run(["python3", "-m", "pip", "config", "list"], capture_output=True, text=True).stdout
    configured = re.search(r"^(?:global|:env:)\.index-url='(.*)'$", said, re.M)
    index = configured[1] if configured else "https://pypi.org/simple"
    page = f"{index.rstrip('/')}/{package}/"
    with urllib.request.urlopen(page, timeout=60) as answer:
        links = re.findall(r'href="([^"]+)"', answer.read().decode())
    return index, {urllib.parse.urlsplit(urllib.parse.urljoin(page, link)).hostname for link in [page, *links]}


class Outside:
    """The stand-ins together: names, a web server and one with TLS, in a network namespace."""

    def __init__(self, directory):
        self.bundle, context = authority(directory, "example.com", "www.example.com")
        self.names = Names({
            "example.com": ADDRESS, "www.example.com": ADDRESS, "api.example.com": ADDRESS, "other.example.net": ADDRESS,
            "rebound.example.com": "10.0.0.5", "metadata.example.com": "169.254.169.254",
        })  # fmt: skip
        self.namespace = Namespace()
        self.web, self.tls = self.namespace.make(Web), self.namespace.make(lambda: Web(443, context))

    def flags(self) -> list[str]:
        """What an operator would set for a server that is to reach them."""
        return [f"--egress-dns={self.names.server}", f"--ca-bundle={self.bundle}", f"--egress-open={ADDRESS}"]

    def close(self):
        for part in (self.names, self.web, self.tls, self.namespace):
            part.close()
