"""Definition files, and the names of what they make."""

from __future__ import annotations

import dataclasses
from importlib.resources import files

from hpcserve.cluster.definition import Content, definition

CONTENT = Content(base="ab", python="3.11 x86_64", requirements=("numpy",), files=(("cd", "/opt/w"),), post=("true",))


def test_a_definition_file() -> None:
    text = definition("/base.sif", key="77", copies=[("/s/0", "/opt/w")], post=["ldconfig", "echo done"])
    assert text == (
        "Bootstrap: localimage\nFrom: /base.sif\n\n"
        "%files\n    /s/0 /opt/w\n\n"
        "%post\n    set -e\n    ldconfig\n    echo done\n\n"
        "%labels\n    hpcserve.build 77\n"
    )
    assert "%post" not in definition("/base.sif", key="77", copies=[], post=[])


def test_everything_that_is_in_an_image_is_in_its_name() -> None:
    others = [
        dataclasses.replace(CONTENT, base="ac"),
        dataclasses.replace(CONTENT, python="3.12 x86_64"),
        dataclasses.replace(CONTENT, requirements=("numpy", "scipy")),
        dataclasses.replace(CONTENT, files=(("ce", "/opt/w"),)),
        dataclasses.replace(CONTENT, files=(("cd", "/opt/v"),)),
        dataclasses.replace(CONTENT, post=()),
    ]
    assert len({CONTENT.key, *(each.key for each in others)}) == 1 + len(others)
    assert dataclasses.replace(CONTENT).key == CONTENT.key


def test_the_shipped_ones_name_no_mirror() -> None:
    shipped = files("hpcserve.containers")
    assert "MirrorURL: {{ mirror }}" in shipped.joinpath("base.def").read_text()
    for name in ("python.def", "mpi.def", "torch.def"):
        assert "From: {{ base }}" in shipped.joinpath(name).read_text()
