"""Communication between the processes of a job under ``torchrun``: ranks, sums, gathering, agreement.

In a single process every function returns its input.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.rendezvous import rendezvous

from .errors import CagcError

# How long other processes wait for one that writes, reads or evaluates alone.
_TIMEOUT = timedelta(minutes=30)

T = TypeVar("T")


def rank() -> int:
    """Number of this process, from 0."""
    return dist.get_rank() if dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes."""
    return dist.get_world_size() if dist.is_initialized() else 1


def is_main() -> bool:
    """Whether this is the process that writes files and prints output."""
    return rank() == 0


def local_rank() -> int:
    """Number of this process on its machine, from ``torchrun``'s environment; 0 without ``torchrun``."""
    return _from_environment("LOCAL_RANK", 0, 0)


def launched() -> int:
    """Number of processes that ``torchrun`` started; 1 without ``torchrun``."""
    return _from_environment("WORLD_SIZE", 1, 1)


def launch_rank() -> int:
    """Number of this process, from ``torchrun``'s environment; 0 without ``torchrun``."""
    number = _from_environment("RANK", 0, 0)
    if launched() > 1 and number >= launched():
        raise CagcError(f"RANK: got {number} in the environment, expected less than WORLD_SIZE, {launched()}")
    return number


def restarts() -> int:
    """How often ``torchrun --max-restarts`` has restarted this job."""
    return _from_environment("TORCHELASTIC_RESTART_COUNT", 0, 0)


def _from_environment(name: str, default: int, least: int) -> int:
    text = os.environ.get(name, "").strip() or str(default)
    if not (text.isascii() and text.isdecimal()) or int(text) < least:
        raise CagcError(f"{name}: got {text!r} in the environment, expected an integer of at least {least}")
    return int(text)


def _check_address() -> None:
    """Raise CagcError unless the environment says where the processes of a job meet and which one this is."""
    launch_rank()
    local_rank()
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        if not os.environ.get(name, "").strip():
            raise CagcError(f"{name}: not set in the environment, while WORLD_SIZE is {launched()}; torchrun sets both")
    port = _from_environment("MASTER_PORT", 0, 1)
    if port > 65535:
        raise CagcError(f"MASTER_PORT: got {port} in the environment, expected at most 65535")


@contextmanager
def _peers_present() -> Iterator[None]:
    """Raise CagcError if PyTorch cannot reach another process, instead of its own error about sockets."""
    try:
        yield
    except RuntimeError as error:
        raise CagcError("another process of this job ended or cannot be reached; its own message says why") from error


@contextmanager
def process_group(device: torch.device | str) -> Iterator[None]:
    """Join the processes that ``torchrun`` started, by NCCL on GPUs and Gloo on CPUs; do nothing without them."""
    if dist.is_initialized() or launched() < 2:
        yield
        return
    _check_address()
    device = torch.device(device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    # Imported before the group exists: its default arguments hold the group that exists at its first import, which
    # would keep Gloo's threads alive after the group, and one of them may abort the process at exit.
    import_module("torch.distributed.nn.functional")
    with _peers_present():
        store, number, size = next(rendezvous("env://", timeout=_TIMEOUT))
        # The store of torchrun's static rendezvous survives a restart and still holds the old processes' addresses.
        store = dist.PrefixStore(f"start {restarts()}", store)
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=number, world_size=size, timeout=_TIMEOUT)
    yield
    # Not in a `finally`: after an error the others may be gone, and this would wait for them.
    dist.destroy_process_group()


def all_sum(tensor: Tensor) -> Tensor:
    """Replace ``tensor`` by its sum over all processes, bit-identical in each, and return it."""
    if world_size() > 1:
        with _peers_present():
            dist.all_reduce(tensor)
    return tensor


def gather(value: T) -> list[T]:
    """Return the ``value`` of every process, by rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with _peers_present():
        dist.all_gather_object(values, value)
    return values


def part_of(count: int) -> slice:
    """Return this process's share of ``count`` items, as a slice."""
    return slice(count * rank() // world_size(), count * (rank() + 1) // world_size())


def any_true(flag: bool) -> bool:
    """Whether ``flag`` is set in any process."""
    if world_size() == 1:
        return flag
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    return bool(all_sum(torch.tensor(float(flag), device=device)).item())


def from_main(function: Callable[[], T]) -> T:
    """Call ``function`` in the main process and return its result in every process.

    The result is sent by ``torch.save``: tensors on the CPU, numbers, strings and containers.

    Raises:
        CagcError: in every process, if ``function`` raises.
    """
    if world_size() == 1:
        return function()
    result = together(lambda: function() if is_main() else None)
    device = "cuda" if dist.get_backend() == "nccl" else "cpu"
    buffer = io.BytesIO()
    if is_main():
        torch.save(result, buffer)
    size = all_sum(torch.tensor(buffer.getbuffer().nbytes, device=device)).item()
    data = torch.frombuffer(bytearray(buffer.getvalue() or size), dtype=torch.uint8).to(device)
    with _peers_present():
        dist.broadcast(data, src=0)
    return result if is_main() else torch.load(io.BytesIO(data.cpu().numpy().tobytes()), weights_only=True)


def together(function: Callable[[], T]) -> T:
    """Call ``function``, which must not communicate, in every process, and continue only if all succeed.

    Raises:
        Exception: what ``function`` raised here, or CagcError with the reason if it raised in another process only.
    """
    result, error = None, None
    try:
        result = function()
    except Exception as caught:
        error = caught
    reasons = gather(None if error is None else " ".join(str(error).split()) or type(error).__name__)
    if error is not None:
        raise error
    for number, reason in enumerate(reasons):
        if reason is not None:
            raise CagcError(f"rank {number}: {reason}")
    return result


def agree(what: str, document: Mapping[str, Any]) -> None:
    """Check that ``document`` is the same in every process.

    Raises:
        CagcError: in every process; names the first entry that differs, with its two values.
    """
    documents = gather(dict(document))
    for number, other in enumerate(documents):
        for name in sorted(set(documents[0]) | set(other)):
            ours, theirs = documents[0].get(name), other.get(name)
            if ours != theirs:
                raise CagcError(
                    f"{what}: the processes disagree on {name}: rank 0 has {ours!r}, rank {number} has {theirs!r}"
                )
