"""The web application that bench_servers.py and test_servers.py load servers with.

/ parses a JSON document, builds an order from each of its records and renders a page;
/small does next to nothing; /allocator tells which allocator serves this process.
Every answer names its process in the header Worker.  Only the standard library is used.
"""

import json
import os

from whoserves import allocator

RECORDS = 20_000
DOCUMENT = json.dumps([
    {"id": i, "name": f"customer {i}", "price": i * 0.25, "tags": [f"t{i % 97}", f"u{i}"]}
    for i in range(RECORDS)])


def page():
    """Some 15 MiB of small objects that live until the answer is there."""
    records = json.loads(DOCUMENT)
    orders = [{"title": record["name"].upper(), "cost": f"{record['price']:.2f}",
               "places": [record["id"], *record["tags"]]} for record in records]
    return "\n".join(f"{order['title']}: {order['cost']}" for order in orders[::20])


def small():
    return json.dumps({"status": "ok", "pid": os.getpid()})


PAGES = {"/": page, "/small": small, "/allocator": allocator}


def answer(path):
    """(status, headers, body)"""
    function = PAGES.get(path)
    body = (function() if function else "no such page").encode()
    return 200 if function else 404, {
        "Content-Type": "text/plain", "Content-Length": str(len(body)),
        "Connection": "close", "Worker": str(os.getpid())}, body


def application(environ, start_response):
    """As WSGI asks for it."""
    status, headers, body = answer(environ["PATH_INFO"])
    start_response("200 OK" if status == 200 else "404 Not Found", list(headers.items()))
    return [body]


async def asgi(scope, receive, send):
    """As ASGI asks for it.  The types lifespan and websocket are not served."""
    if scope["type"] != "http":
        raise NotImplementedError(scope["type"])
    status, headers, body = answer(scope["path"])
    await send({"type": "http.response.start", "status": status, "headers": [
        (name.lower().encode(), value.encode()) for name, value in headers.items()]})
    await send({"type": "http.response.body", "body": body})
