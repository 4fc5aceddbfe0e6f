"""The images that servables' own can stand on, and how each is put over the one below. Pure.

At the bottom is Debian with its own Python. What is put over it, layer by layer, are packages of PyPI, in the version
that a servable asks for: an MPI with mpi4py, torch. Each layer is one of the definition files in ``containers/``.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass

from hpcserve.cluster.packages import extra

BOTTOM = ("base.def", "python.def")
"""The definition files below all layers."""
DEFINITIONS = {"python": "", "mpich": "mpi.def", "openmpi": "mpi.def", "torch": "torch.def"}
"""What a manifest may name, and the definition file of each; ``python`` is there anyway."""
MPICH = "mpich>=4.3,<5"
"""Which MPICH is taken where a servable names no version. One in seven starts of 5.0 by Slurm's pmi2 (22.05) fails."""


@dataclass(frozen=True, slots=True)
class Layer:
    """One of them.

    Attributes:
        name: What it is called.
        definition: Its definition file.
        packages: What pip is asked for, to be put where the image's Python looks.
        prefix: The wheel whose programs and libraries are put below /usr/local; or empty.
    """

    name: str
    definition: str
    packages: tuple[str, ...]
    prefix: str = ""

    def key(self, below: str, text: str) -> str:
        """Names an image by what it is made of: this layer, and the key of the image below.

        Args:
            below: That key.
            text: Of the definition file.
        """
        said = "\n".join([below, text, *self.packages, self.prefix])
        return hashlib.sha256(said.encode()).hexdigest()[:12]


def layers(wanted: Sequence[str]) -> tuple[Layer, ...]:
    """What is put over Debian's Python.

    Args:
        wanted: Names of :data:`DEFINITIONS`, each with a version if one is asked for, as the manifest has them.
    """
    named = [(re.split(r"[^a-z]", each)[0], each) for each in wanted]
    return tuple(_layer(name, each) for name, each in named if DEFINITIONS[name])


def _layer(name: str, wanted: str) -> Layer:
    if DEFINITIONS[name] == "mpi.def":
        return Layer(name, "mpi.def", extra("mpi"), MPICH if wanted == "mpich" else wanted)
    return Layer(name, DEFINITIONS[name], extra(name) if wanted == name else (wanted,))
