"""Why the coordinator says no. One tree; each has a stable code and an HTTP status.

CoordinatorError
  NotFound        404  no such task, device, model, assignment
  Conflict        409  the state does not allow it: late, stopped, offset, name taken
  Refused         422  the update or message breaks a rule of the wire
  Denied          401  no credential, or not the right one
  UpgradeNeeded   426  the device speaks no protocol version that is served
  TooLarge        413  announced or sent more than allowed
  Unavailable     503  starting, stopping, or the disk is full: try again later
"""

RETRY = {"Retry-After": "30"}
"""With every 503, for clients that are not ours: an agent goes by its own backoff."""


class CoordinatorError(Exception):
    """`code` is stable; `detail` is for people; `headers` go with the HTTP answer."""

    status = 500
    title = "Error"

    def __init__(self, code: str, detail: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(f"{code}: {detail}")
        self.code = code
        self.detail = detail
        self.headers = headers or {}


class NotFound(CoordinatorError):
    status = 404
    title = "Not found"


class Conflict(CoordinatorError):
    status = 409
    title = "Conflict"


class Refused(CoordinatorError):
    status = 422
    title = "Refused"


class Denied(CoordinatorError):
    status = 401
    title = "A valid credential is needed"


def unknown_device() -> Denied:
    """Nobody has this credential, or nobody has it any more."""
    return Denied("unknown_device", "no device has this credential: enrol it again")


class TooLarge(CoordinatorError):
    status = 413
    title = "Too large"


class UpgradeNeeded(CoordinatorError):
    status = 426
    title = "Upgrade needed"


class Unavailable(CoordinatorError):
    status = 503
    title = "Unavailable"

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(code, detail, RETRY)
