"""See servable.toml."""

import time

from hpcserve import Batching, Tensor, method

SLOW_S = 0.25
time.sleep(SLOW_S)  # as a large package's import
X = Tensor("int64", [-1])


class Warm:
    def __init__(self):
        self.sizes = []

    def setup(self):
        time.sleep(SLOW_S)

    @method(inputs={"x": X}, outputs={"seen": Tensor("JSON")})
    def seen(self, x):
        return self.sizes

    @method(
        inputs={"x": X}, outputs={"y": X}, batchable=True, batching=Batching(preferred_batch_sizes=(4,), max_batch_size=8)
    )
    def predict(self, x):
        if not self.sizes:
            time.sleep(SLOW_S)
        if 13 in x:
            raise ValueError("unlucky")
        self.sizes.append(len(x))
        return x
