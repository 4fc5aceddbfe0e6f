"""The site files that hpcserve ships: ``NAME.toml`` for ``--site NAME``."""
