"""Errors that Paceline raises on purpose.

The command line prints the message of any of them on one line and exits 2. A message therefore says
what was wrong, where (file and key), and what is allowed. This module is a leaf: it imports nothing.
"""


class PacelineError(Exception):
    """Base of all errors that are the user's to act on, not a defect of Paceline."""


class StudyError(PacelineError):
    """A study file, a preset or a variable given for one is not valid."""


class ClusterError(PacelineError):
    """A cluster profile is not valid, or the site refuses what it asks for."""


class LaunchError(PacelineError):
    """A run cannot be started, watched or cancelled."""


class RecordError(PacelineError):
    """A file in a study folder cannot be read: truncated, foreign, or of another schema version."""


class TraceError(PacelineError):
    """A profiler's export cannot be read or analysed."""
