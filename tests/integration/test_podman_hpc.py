"""A servable by podman-hpc, of which this machine has none: a stand-in reads its command line, and runs Apptainer."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from tests.integration import images
from tests.integration.conftest import NewDaemon

pytestmark = pytest.mark.timeout(600)

PATIENCE_S = 90.0
# It knows what podman-run(1) says of the options that we use, and refuses all others, as podman does, by 125.
STAND_IN = """#!{python}
import fnmatch, os, sys
words = iter(sys.argv[1:])
argv = ["apptainer", "--silent", "exec", "--containall", "--cleanenv", "--no-home", "--pwd", "/tmp"]
if next(words) != "run":
    sys.exit(125)
flags = {{"--rm", "--interactive", "--network=host", "--read-only", "--tmpfs=/tmp", "--workdir=/tmp", "--entrypoint="}}
for word in words:
    if word == "--mount":
        argv += ["--mount", next(words)]
    elif word == "--env":
        pattern = next(words)
        for name in [name for name in os.environ if fnmatch.fnmatchcase(name, pattern)]:
            os.environ["APPTAINERENV_" + name] = os.environ[name]
    elif word.startswith("-") and word not in flags:
        sys.exit(125)
    elif not word.startswith("-"):
        transport, _, path = word.partition(":")
        if transport != "docker-archive":
            sys.exit(125)
        os.execvp(argv[0], [*argv, path, *words])
"""
CODE = """
from hpcserve import Tensor, method

@method(inputs={"x": Tensor("float64", (-1,))}, outputs={"y": Tensor("float64", (-1,))})
def double(x):
    return 2 * x
"""


def test_a_servable_is_published_and_answers(
    new_daemon: NewDaemon, python_image: Path, image_dir: Path, tmp_path: Path
) -> None:
    runtime = tmp_path / "podman-hpc"
    runtime.write_text(STAND_IN.format(python=sys.executable))
    runtime.chmod(0o755)
    daemon = new_daemon(containers={"runtime": "podman-hpc", "command": str(runtime), "environment": ["TEST_DAEMON"]})
    images.packages(daemon.shared, image_dir)
    place = tmp_path / "boxed"
    place.mkdir()
    (place / "model.py").write_text(CODE)
    (place / "servable.toml").write_text(
        'name = "boxed"\nloader = "python"\nentry = "model:double"\n'
        f'[environment]\nkind = "container"\nimage = "{python_image}"\n'
    )
    daemon.up()
    with daemon.client() as client:
        endpoint = daemon.deploy(client, place)
        answer = client.infer(endpoint, np.arange(3.0), timeout_s=PATIENCE_S)
    assert answer["y"].tolist() == [0.0, 2.0, 4.0]
    assert answer.image
