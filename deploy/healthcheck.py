"""Exit 0 if the daemon in this container answers /livez with 200, else 1 with the reason. Needs Python alone."""

import http.client
import os
import sys

TIMEOUT_SECONDS = 4


def main() -> str | None:
    """Why the daemon is not alive, or None if it is."""
    connection = http.client.HTTPConnection(
        "127.0.0.1", int(os.environ.get("ROWVAULT_HTTP__PORT") or 8080), timeout=TIMEOUT_SECONDS
    )
    try:
        connection.request("GET", "/livez")
        response = connection.getresponse()
        return None if response.status == http.HTTPStatus.OK else response.read(1000).decode(errors="replace")
    except OSError as error:
        return f"/livez does not answer: {error}"


if __name__ == "__main__":
    sys.exit(main())
