"""What can go wrong here that a person can mend."""


class InstallError(Exception):
    """The service cannot be installed, or removed; one line that says what to do."""
