"""What a command says of bad input."""


class CommandError(Exception):
    """Raised for bad input, with one line that says what is wrong; shown as that, exit code 2."""
