"""The exceptions that end a run with a sentence instead of a traceback."""


class UserError(Exception):
    """A mistake in what the user asked for, said in one sentence.

    The sentence names the key, file or row and says what is allowed. The command line prints it
    on stderr and exits with code 2; no traceback, and nothing half-written stays behind.
    """


class PolicyMismatch(Exception):
    """The sampler does not draw from the policy that learns; the message says how that showed."""


class Interrupted(Exception):
    """The run was asked to stop; it is saved, and the message says how to go on with it."""


class Diverged(Exception):
    """A number that must be finite is not; the message says which, and at which step."""


class DiskFull(Exception):
    """There is no room for a file of the run; the message says which, and how to go on."""


class RankFailure(Exception):
    """A process of a run on several ranks failed; the message says which, and how."""
