"""The Ray cluster that a search joins or starts, and the accelerators it has."""

import logging
import os
import socket

from nos_optax.population.accelerator import AcceleratorError
from nos_optax.search.interrupts import handlers_kept

RESOURCES = {"gpu": "GPU", "tpu": "TPU", "cpu": "CPU"}  # Ray's names, the best first
PROBE_SECONDS = 5  # Ray itself tries an address for minutes
# HTTP/2, as gRPC speaks it: the client's preface and empty settings; the server answers by its own.
HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + b"\0\0\0\4\0\0\0\0\0"
HEADER, KIND, SETTINGS = 9, 3, 4  # bytes of a frame's header, the one that tells its kind, a kind


def join(address: str | None, workers: int | None) -> bool:
    """Join or start Ray, without its chatter; return False where this process has done it."""
    try:
        import ray
    except ImportError as error:
        raise ImportError("evaluation by Ray needs it: pip install 'nos_optax[ray]'") from error

    if ray.is_initialized():
        return False
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Its default is announced by a warning in every worker.
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = address or os.environ.get("RAY_ADDRESS") or "local"
    options: dict = {"address": address, "log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        options |= {"num_cpus": workers or _cores(), "include_dashboard": False}
    elif workers is not None:
        raise ValueError(
            f"workers is {workers}, but the Ray at {address} has its own; leave it out"
        )
    elif address != "auto":
        _probe(address)
    try:
        with handlers_kept():
            ray.init(**options)
    except (RuntimeError, ValueError, OSError) as error:
        raise ConnectionError(f"cannot join Ray at {address}: {error}") from error
    return True


def _probe(address: str) -> None:
    """Raise unless what listens at an address speaks as Ray does."""
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        with socket.create_connection((host, int(port)), timeout=PROBE_SECONDS) as connection:
            if not os.environ.get("RAY_USE_TLS"):
                connection.sendall(HELLO)
                answer = connection.recv(HEADER, socket.MSG_WAITALL)
                if answer[KIND : KIND + 1] != bytes([SETTINGS]):
                    raise ConnectionError("what answers there is something else")
    except (OSError, ValueError) as error:
        raise ConnectionError(
            f"no Ray at {address!r} ({error}): start it with `ray start --head` and give HOST:PORT"
        ) from error


def _cores() -> int:
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # the system does not tell
        return os.cpu_count() or 1


def resources() -> dict[str, float]:
    """Return what all nodes of the cluster have together, by Ray's names."""
    import ray

    return ray.cluster_resources()


def choose_accelerator(wanted: str) -> str:
    """Return the accelerator that a search gets, of those in the cluster."""
    here = [kind for kind, resource in RESOURCES.items() if resources().get(resource)]
    if wanted == "auto" and here:
        return here[0]
    if wanted in here:
        return wanted
    raise AcceleratorError(
        f"the Ray cluster has no {wanted}, but {', '.join(here) or 'no worker at all'}: "
        "add a node that has it, or ask for another accelerator"
    )
