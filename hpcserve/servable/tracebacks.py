"""An exception of a servable's own code as text: where it happened, without our frames, of bounded length."""

from __future__ import annotations

import traceback
from pathlib import Path

MAX_CHARACTERS = 16_000
MAX_MESSAGE_CHARACTERS = 2_000

_OURS = (str(Path(__file__).resolve().parent), "<frozen importlib", "<frozen runpy")


def headline(error: BaseException) -> str:
    """``ValueError: the message``, shortened when it is very long."""
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    if isinstance(error, SyntaxError):  # its text begins with the place and the code, which are in its traceback
        text = f"{type(error).__name__}: {error}"
    return text if len(text) <= MAX_MESSAGE_CHARACTERS else text[:MAX_MESSAGE_CHARACTERS] + " …"


def servable_traceback(error: BaseException) -> str:
    """The traceback from the servable's first frame on, if it has any; head and tail when it is very long."""
    where = error.__traceback__
    while where is not None and where.tb_frame.f_code.co_filename.startswith(_OURS):
        where = where.tb_next
    text = "".join(traceback.format_exception(type(error), error, where))
    half = MAX_CHARACTERS // 2
    return text if len(text) <= MAX_CHARACTERS else f"{text[:half]}\n…\n{text[-half:]}"
