"""HTTP requests as bytes, single calls, and many calls at once from one thread.

Not here: steady load, which `load` (Rust) makes.
"""
import selectors
import socket
import time


def get(port, path):
    return f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode()


def post(port, path, body):
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def whole(answer):
    """Whether the bytes are a whole answer."""
    head, gap, body = answer.partition(b"\r\n\r\n")
    if not gap:
        return False
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return len(body) >= int(value)
    return body.endswith(b"0\r\n\r\n")


def first_call(port, request):
    """ms from connecting to the whole answer, which must be a 200."""
    begin = time.perf_counter()
    with socket.create_connection(("127.0.0.1", port), timeout=60) as stream:
        stream.sendall(request)
        answer = b""
        while not whole(answer):
            chunk = stream.recv(65536)
            if not chunk:
                raise RuntimeError(f"the connection ended early: {answer[:200]!r}")
            answer += chunk
    taken = (time.perf_counter() - begin) * 1e3
    if answer[9:12] != b"200":
        raise RuntimeError(f"a first call was answered {answer[:400]!r}")
    return taken


def all_at_once(port, requests, timeout_s=120):
    """Sends each request on a connection of its own, all at once. Seconds until each answer, sorted, and how many were no
    200."""
    waiting, held = selectors.DefaultSelector(), {}
    for _ in requests:
        stream = socket.create_connection(("127.0.0.1", port), timeout=60)
        held[stream] = b""
    begin = time.perf_counter()
    for stream, request in zip(held, requests, strict=True):
        stream.sendall(request)
        waiting.register(stream, selectors.EVENT_READ)
    taken, failed = [], 0
    while len(taken) < len(requests):
        ready = waiting.select(timeout_s)
        if not ready:
            raise RuntimeError(f"{len(requests) - len(taken)} of {len(requests)} calls were not answered in {timeout_s} s")
        for key, _ in ready:
            stream = key.fileobj
            chunk = stream.recv(65536)
            held[stream] += chunk
            if whole(held[stream]) or not chunk:
                taken.append(time.perf_counter() - begin)
                failed += held[stream][9:12] != b"200"
                waiting.unregister(stream)
                stream.close()
    return sorted(taken), failed


def wait_for_answer(port, path):
    """ms of the first call that a server that is starting answers."""
    for _ in range(20_000):
        try:
            return first_call(port, get(port, path))
        except OSError:
            time.sleep(0.0005)
    raise RuntimeError("a peer did not answer")


def connected(port):
    """A connection that stays, as SDKs have it."""
    connection = socket.create_connection(("127.0.0.1", port))
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(connection, request):
    """Sends a request over a connection that stays; waits for its answer, which must be a success."""
    connection.sendall(request)
    answer = b""
    while b"\r\n\r\n" not in answer:
        answer += connection.recv(65536)
    head, body = answer.split(b"\r\n\r\n", 1)
    lengths = (line.split(b":")[1] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    length = int(next(lengths))
    while len(body) < length:
        body += connection.recv(65536)
    if not head.startswith(b"HTTP/1.1 2"):
        raise RuntimeError(f"{head.decode()} {body.decode()}")
