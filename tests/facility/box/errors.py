"""What goes wrong with a box."""


class BoxError(Exception):
    """The box does not do what it should; the message says which part, and its last words."""
