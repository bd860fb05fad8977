"""What the service says when it refuses."""

from typing import Any, Final

Json = dict[str, Any]

TAKEN: Final = "nameAlreadyExists"
INVALID: Final = "invalidRequest"


class GraphError(Exception):
    """A refusal with its status, the code a program reads and the text a person reads."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        inner: str = "",
        headers: tuple[tuple[str, str], ...] = (),
    ) -> None:
        super().__init__(f"{status} {code}: {message}")
        self.status = status
        self.code = code
        self.message = message
        self.inner = inner
        self.headers = headers


def bad_request(message: str, *, inner: str = "", code: str = INVALID) -> GraphError:
    return GraphError(400, code, message, inner=inner)


def not_found(message: str = "The resource could not be found.") -> GraphError:
    return GraphError(404, "itemNotFound", message)


def taken(message: str = "The specified item name already exists.") -> GraphError:
    return GraphError(409, TAKEN, message)


def not_supported(message: str, status: int = 400) -> GraphError:
    return GraphError(status, "notSupported", message)


def changed() -> GraphError:
    return GraphError(412, "resourceModified", "ETag does not match current item's value")


def error_body(error: GraphError, *, date: str, request_id: str, lower: bool) -> Json:
    """``lower``: the other spelling of innerError."""
    inner = {"date": date, "request-id": request_id, "client-request-id": request_id}
    if error.inner:
        inner["code"] = error.inner
    name = "innererror" if lower else "innerError"
    return {"error": {"code": error.code, "message": error.message, name: inner}}
