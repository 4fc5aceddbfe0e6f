"""The exit codes of an agent. They are its pilot job's own, and tell a daemon that it could not reach how it ended.

They keep clear of those of shells, interpreters and ``sysexits.h``: a pilot job runs a site's own commands too.
"""

from __future__ import annotations

OK = 0
"""It ended in order: its walltime, a signal, or because it was asked to."""
FAILED = 1
"""Something else went wrong; its log says what."""
REFUSED = 90
"""The daemon does not let it in: its pilot has ended, a younger incarnation runs, or another run has used its
enrolment file up."""
VERSION_MISMATCH = 91
"""It and the daemon share no version of the wire format."""
ORPHANED = 92
"""The daemon stayed away for ``pilots.orphan_s``."""
NO_ENROLMENT = 93
"""Its enrolment file never came."""
