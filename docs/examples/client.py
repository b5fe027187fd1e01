#!/usr/bin/env python3
"""A client of gyre's control socket: calls, batches, events. Needs nothing but Python 3.

    client.py call METHOD [JSON]
    client.py batch METHOD...
    client.py events [--count N] [KIND...]

The socket is $GYRE_SOCKET, /run/gyre/gyre.sock unless set. Methods: docs/CONTROL_API.md, or
`client.py call rpc.discover`.
"""

import itertools
import json
import os
import socket
import sys


class Refused(Exception):
    """gyre's own refusal: a stable code, a line for people, what to do."""

    def __init__(self, error):
        data = error.get("data") or {}
        self.code = data.get("code")
        self.problems = data.get("problems", [])
        hint = f"; {data['hint']}" if data.get("hint") else ""
        super().__init__(f"{self.code}: {error['message']}{hint}")


class Client:
    """One connection. Not for several threads at once."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.connect(path)
        self.lines = self.socket.makefile("r", encoding="utf-8")
        self.ids = itertools.count(1)
        self.events = []

    def _request(self, method, params):
        return {"jsonrpc": "2.0", "id": next(self.ids), "method": method, "params": params}

    def _send(self, what):
        self.socket.sendall(json.dumps(what).encode() + b"\n")

    def _line(self):
        line = self.lines.readline()
        if not line:
            raise ConnectionError("gyre closed the connection")
        return json.loads(line)

    def _reply(self):
        while True:
            line = self._line()
            if isinstance(line, dict) and "method" in line:
                self.events.append(line["params"])  # an event came between
            else:
                return line

    @staticmethod
    def _result(reply):
        if "error" in reply:
            raise Refused(reply["error"])
        return reply["result"]

    def call(self, method, **params):
        """The result of one method."""
        self._send(self._request(method, params))
        return self._result(self._reply())

    def batch(self, calls):
        """The results of several (method, params), in one line; each a result or a Refused."""
        requests = [self._request(method, params) for method, params in calls]
        self._send(requests)
        replies = {reply["id"]: reply for reply in self._reply()}
        results = []
        for request in requests:
            try:
                results.append(self._result(replies[request["id"]]))
            except Refused as refused:
                results.append(refused)
        return results

    def subscribe(self, kinds=None):
        """Events from now on, without end."""
        self.call("events.subscribe", kinds=kinds)
        while True:
            yield self.events.pop(0) if self.events else self._line()["params"]


def main(arguments):
    if not arguments or arguments[0] not in ("call", "batch", "events"):
        sys.exit(__doc__)
    client = Client(os.environ.get("GYRE_SOCKET", "/run/gyre/gyre.sock"))
    command, rest = arguments[0], arguments[1:]
    if command == "call":
        params = json.loads(rest[1]) if len(rest) > 1 else {}
        print(json.dumps(client.call(rest[0], **params), indent=2))
    elif command == "batch":
        results = client.batch([(method, {}) for method in rest])
        print(json.dumps([r if not isinstance(r, Refused) else str(r) for r in results], indent=2))
    else:
        count = None
        if rest[:1] == ["--count"]:
            count, rest = int(rest[1]), rest[2:]
        for event in itertools.islice(client.subscribe(rest or None), count):
            print(json.dumps(event), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except Refused as refused:
        sys.exit(f"refused: {refused}")
    except OSError as error:
        sys.exit(f"cannot reach gyre: {error}")
