"""Runs a servable's warm-up before anybody's request: what is slow for the first time is done, and errors show."""

from __future__ import annotations

from pathlib import Path

import msgspec

from hpcserve.errors import HpcserveError, ServableError
from hpcserve.replica.executor import Servable
from hpcserve.replica.joint import check_samples
from hpcserve.servable.manifest import Manifest
from hpcserve.servable.warmup import Run, runs


def warm_up(loaded: Servable, manifest: Manifest, directory: Path) -> None:
    """Runs all that the manifest says, one after the other; of a stream the first item.

    Raises:
        ManifestError: An entry cannot be run.
        ServableError: A run failed; ``remote_traceback`` says where.
    """
    for run in runs(msgspec.structs.replace(manifest, methods=loaded.methods), directory):
        _run(loaded, run)


def _run(loaded: Servable, run: Run) -> None:
    try:
        _call(loaded, run)
    except HpcserveError as error:
        told = f"the warm-up ({run.in_words}) failed: {error.message}"
        raise ServableError(told, remote_traceback=error.remote_traceback) from error


def _call(loaded: Servable, run: Run) -> None:
    if loaded.methods[run.method].stream:
        items = loaded.stream(run.method, run.inputs, run.parameters)
        items.next()
        items.close()
        return
    outputs = loaded.run(run.method, run.inputs, run.parameters)
    if run.samples is not None:
        check_samples(run.method, outputs, run.samples)
