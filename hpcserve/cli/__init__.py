"""The command line: one module for each noun or verb, put together in :mod:`hpcserve.cli.app`."""
