"""What the user sees when something is wrong: one line, naming the value and the way out."""


class ScmdError(Exception):
    """Bad input. The message is one clear line; the command line prints it and exits with 2."""


class BadImageError(ScmdError):
    """An image file that cannot be decoded."""


class ScmdWarning(UserWarning):
    """Something that the user should know and that does not stop the run."""
