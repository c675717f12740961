"""Exceptions that end a command with a sentence instead of a traceback."""


class UserError(Exception):
    """Mistake in the user's input, described in one sentence.

    The sentence names the key, file or row and says what is allowed. The command line prints it
    on stderr, without a traceback, and exits with code 2. Nothing half-written stays behind.
    """


class PolicyMismatch(Exception):
    """The sampler does not draw from the policy that learns; the message names the evidence."""


class Interrupted(Exception):
    """The run was asked to stop and is saved; the message says how to resume it."""


class Diverged(Exception):
    """A number that must be finite is not; the message names the number and the step."""


class DiskFull(Exception):
    """The disk has no room for a file; the message names the file and says how to go on."""


class RankFailure(Exception):
    """A process of a run on several ranks failed; the message names the rank and the cause."""
