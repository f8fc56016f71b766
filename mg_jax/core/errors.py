"""The one exception class that stands for a mistake of the user rather than of the program."""


class UserError(Exception):
  """A user's mistake, in one sentence: what is wrong, where, and what to do about it.

  Entry points print the sentence and exit with a non-zero code; they show no traceback for it.
  """
