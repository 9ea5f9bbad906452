"""nightshift: a nightly batch-ML pipeline that a team can leave alone with its pager."""

__version__ = "0.1.0"
