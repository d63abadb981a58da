"""What the user sees when something is wrong: one line, naming the value and the way out."""


class ScmdError(Exception):
    """Bad input. The message is one clear line; the command line prints it and exits with 2."""


class BadImageError(ScmdError):
    """An image file that cannot be decoded."""


LEAVE_OUT = "leave it out (--skip-bad; in scmd protocol --set data.skip_bad=true)"
"""The way out where an image cannot be read, for whichever command has met it."""


class Stopped(KeyboardInterrupt):
    """Somebody asked to stop, and it was done: what is needed to go on is on the disk.

    Args:
        what: One line to say.
        signal: The number of the signal that asked.
    """

    def __init__(self, what: str, signal: int) -> None:
        super().__init__(what)
        self.signal = signal


class ScmdWarning(UserWarning):
    """Something that the user should know and that does not stop the run."""


def printable(text: str) -> str:
    """Whatever a file is called, what is said of it is one line and does nothing to a terminal."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
