"""Ports of the loopback interface."""

from __future__ import annotations

import socket
import time

LOOPBACK = "127.0.0.1"
PATIENCE = 300.0  # seconds: machines that run tests may stand still for a while


def free_port() -> int:
    """A port that nothing listens on."""
    with socket.create_server((LOOPBACK, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def wait_for(port: int, seconds: float = PATIENCE) -> None:
    """Return once something listens on `port`.  Raises TimeoutError."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            socket.create_connection((LOOPBACK, port), 1).close()
            return
        except OSError:
            time.sleep(0.2)
    raise TimeoutError(f"nothing listens on {port}")
