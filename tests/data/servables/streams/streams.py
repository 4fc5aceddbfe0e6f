"""Methods that yield, in every way; what they have done they write into a file that the caller names."""

import os
import time
from pathlib import Path

import numpy as np

from hpcserve import Tensor, method

N = {"n": Tensor("int64", [])}
Y = {"y": Tensor("int64", [])}


def wait(parameters):
    """Until the file exists that the caller names, if one is named; says that it waits."""
    if "gate" in parameters:
        Path(parameters["gate"] + ".waits").touch()
        while not Path(parameters["gate"]).exists():
            time.sleep(0.005)


class Streams:
    def setup(self, context):
        self.context = context

    @method(inputs=N, outputs=Y)
    def count(self, n):
        yield from range(int(n))

    @method(inputs=N, outputs=Y)
    def plain(self, n):
        return n + 1

    @method(inputs=N, outputs=Y, stream=True)
    def returned(self, n):
        return iter([np.int64(1), np.int64(2)]) if n else [1, 2]

    @method(inputs=N, outputs={"a": Tensor("float64", [-1]), "b": Tensor("BYTES", [])})
    def two_outputs(self, n):
        for i in range(int(n)):
            yield {"a": np.full(i, float(i)), "b": str(i)}

    @method(inputs=N, outputs={"x": Tensor("uint8", [-1])})
    def large(self, n, *, parameters):
        for i in range(int(n)):
            yield np.full(parameters["bytes"], i, np.uint8)

    @method(inputs={"x": Tensor("int64", [-1])}, outputs={"x": Tensor("int64", [-1])})
    def same_array(self, x):
        for _ in range(10):
            yield x
            x += 1

    @method(inputs=N, outputs=Y)
    def raises(self, n):
        yield from range(int(n))
        raise ValueError(f"no more after {n}")

    @method(inputs=N, outputs=Y)
    def wrong_shape(self, n):
        yield from range(int(n))
        yield np.zeros(3, np.int64)

    @method(inputs=N, outputs=Y)
    def slow(self, n, *, parameters):
        try:
            for i in range(int(n)):
                Path(parameters["log"]).write_text(str(i))
                yield i
                wait(parameters)
                time.sleep(parameters.get("pause_s", 0.0))
        finally:
            with Path(parameters["log"] + ".ended").open("a") as file:
                file.write("ended\n")

    @method(inputs=N, outputs=Y)
    def never(self, n):
        time.sleep(3600)
        yield n

    @method(inputs=N, outputs=Y)
    def until_cancelled(self, n, *, parameters):
        yield 0
        while not self.context.cancelled:
            time.sleep(0.005)
        Path(parameters["log"]).write_text("cancelled")

    @method(inputs=N, outputs=Y)
    def dies(self, n, *, parameters):
        first = not Path(parameters["log"]).exists()
        Path(parameters["log"]).write_text("ran")
        for i in range(int(n)):
            yield i
        if first:
            wait(parameters)
            time.sleep(parameters.get("pause_s", 0.0))
            os._exit(7)
        yield from range(int(n), 10)

    @method(inputs=N, outputs=Y, idempotent=False)
    def dies_once(self, n, *, parameters):
        yield from self.dies(n, parameters=parameters)
