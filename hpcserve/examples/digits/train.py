"""Trains the servable ``digits`` on the first half of the images that scikit-learn carries.

Source: scikit-learn, example "Recognizing hand-written digits": SVC(gamma=0.001), first half to second half.
"""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from hpcserve.errors import ConfigError

Array = np.ndarray[Any, Any]


def train(directory: Path) -> Path:
    """Writes the complete servable into ``directory``, which is made if it is not there.

    Returns:
        ``directory``.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    images, labels = _data_set()
    import joblib  # type: ignore[import-untyped]  # it ships no types
    from sklearn.svm import SVC  # type: ignore[import-untyped]  # it ships no types

    half = len(images) // 2
    directory.mkdir(parents=True, exist_ok=True)
    joblib.dump(SVC(gamma=0.001).fit(images[:half], labels[:half]), directory / "model.joblib")
    shutil.copyfile(Path(__file__).with_name("servable.toml"), directory / "servable.toml")
    return directory


def held_out() -> tuple[Array, Array]:
    """The other half: ``image: float64[899, 64]`` and ``label: int64[899]``.

    Raises:
        ConfigError: scikit-learn is not installed.
    """
    images, labels = _data_set()
    half = len(images) // 2
    return images[half:], labels[half:]


def _data_set() -> tuple[Array, Array]:
    try:
        from sklearn.datasets import load_digits  # type: ignore[import-untyped]  # it ships no types
    except ImportError as error:
        raise ConfigError(
            "the example digits needs scikit-learn, which is not installed; pip install 'hpcserve[sklearn]'"
        ) from error
    images, labels = load_digits(return_X_y=True)
    return images.astype(np.float64), labels.astype(np.int64)
