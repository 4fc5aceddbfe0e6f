"""The demo's latencies as a PNG in the user's cache directory, where matplotlib is installed.

It is the one file that outlives the demo, under a name of its own: the next demo writes it anew.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

from hpcserve.cli.latency_plot import Latencies, draw
from hpcserve.config import cache_dir

FILE = "demo-latency.png"
TITLE = "A surrogate called by 32 clients, one replica"


def picture(latencies: Latencies, scratch: Path, say: Callable[[str], None]) -> str:
    """Draws it.

    Args:
        latencies: What to draw.
        scratch: A directory for what matplotlib leaves behind.
        say: Is told why there is no picture.

    Returns:
        Its path; empty where there is none.
    """
    os.environ["MPLCONFIGDIR"] = str(scratch)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it tells that it looks for fonts
    drawn, place = scratch / FILE, cache_dir() / FILE
    try:
        draw(latencies, TITLE, drawn)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(drawn, place)
    except ImportError:
        say("for a picture of the latencies: pip install 'hpcserve[plot]'")
        return ""
    except OSError as error:
        say(f"no picture of the latencies: cannot write {place}: {error.strerror}")
        return ""
    return str(place)
