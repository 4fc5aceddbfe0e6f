"""Its setup raises."""

from hpcserve import Tensor, method


class Stubborn:
    def setup(self, context):
        raise FileNotFoundError(f"no weights in {context.directory.name and 'the servable'}")

    @method(inputs={"n": Tensor("int64")}, outputs={"n": Tensor("int64")})
    def run(self, n):
        return n
