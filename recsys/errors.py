"""The one base of errors that a user can act on."""


class UserError(Exception):
    """Something that whoever runs the command can mend; the message says what is wrong and what to do.

    The command line prints it as one line and exits with 1; anything else is a bug and prints its traceback.
    """
