"""Every error that a caller can meet, drawn once.

    GimleError
    ├── ConfigError                      a setting is wrong: the start stops
    ├── MemberDied                       a process of the server keeps dying: all of it stops
    ├── PermanentError            500    trying again won't help
    │   ├── CorruptDownload       502
    │   ├── DiskFull              507
    │   └── ModelNotLoadable      500
    ├── InvalidRequest            400    the caller's fault, named by field
    │   ├── ContextTooLong        400
    │   ├── Unsayable             400
    │   ├── UrlNotAllowed · UrlNotFetched
    │   └── InvalidImage · ImageTooLarge
    ├── Unauthorized              401
    ├── Forbidden                 403
    │   ├── Unpriced              403
    │   └── LicenceNotAccepted    403
    ├── NotFound                  404
    │   ├── ModelNotFound · ProviderNotFound
    │   ├── CollectionNotFound · DocumentNotFound
    │   ├── DecisionNotFound · JobNotFound · KeyNotFound · QueryNotFound · TenantNotFound
    │   ├── BudgetNotFound · AllowanceNotFound
    │   ├── ResponseNotFound · PreviousResponseNotFound
    │   └── FileNotKnown
    ├── RequestTimeout            408
    ├── Conflict                  409
    ├── PayloadTooLarge           413
    ├── UnsupportedDocument       415
    ├── UnreadableDocument        422
    ├── RateLimitedError          429    carries the seconds to wait
    │   ├── BudgetExceeded        429
    │   ├── QuotaExceeded         429
    │   └── Overloaded            429
    └── TransientError            503    trying again may help
        ├── Unavailable           503
        ├── DatabaseUnavailable   503
        ├── LedgerUnavailable     503
        └── UpstreamError         502
            └── UpstreamTimeout   504

The docstring of a class is its message when it is raised bare. Each door renders the same three fields
(`message`, `field`, `hint`) and the class's `code` and `status` in the caller's dialect.
"""

from typing import ClassVar


class GimleError(Exception):
    """Something went wrong inside Gimle."""

    code: ClassVar[str] = "internal_error"
    status: ClassVar[int] = 500

    def __init__(self, message: str | None = None, *, field: str | None = None, hint: str | None = None) -> None:
        self.message = message or (self.__doc__ or "").strip()
        self.field = field
        self.hint = hint
        super().__init__(self.message)


class ConfigError(GimleError):
    """A setting is wrong."""

    code = "config_error"


class MemberDied(GimleError):
    """A process of the server keeps dying."""

    code = "member_died"


class PermanentError(GimleError):
    """This failed in a way that trying again won't mend."""

    code = "permanent_error"


class CorruptDownload(PermanentError):
    """What was fetched is not what was asked for."""

    code = "corrupt_download"
    status = 502


class DiskFull(PermanentError):
    """There is not enough room on the disk."""

    code = "disk_full"
    status = 507


class ModelNotLoadable(PermanentError):
    """The file of this model can't be loaded."""

    code = "model_not_loadable"


class InvalidRequest(GimleError):
    """The request is not valid."""

    code = "invalid_request"
    status = 400


class ContextTooLong(InvalidRequest):
    """The prompt does not fit the model's context window."""

    code = "context_length_exceeded"


class Unsayable(InvalidRequest):
    """This model's provider has no way to say that."""

    code = "unsupported_parameter"


class UrlNotAllowed(InvalidRequest):
    """This URL is not one that Gimle fetches."""

    code = "url_not_allowed"


class UrlNotFetched(InvalidRequest):
    """What this URL names could not be fetched."""

    code = "url_not_fetched"


class InvalidImage(InvalidRequest):
    """This is no picture in PNG, JPEG, GIF or WebP."""

    code = "invalid_image"


class ImageTooLarge(InvalidRequest):
    """This picture has too many bytes or pixels."""

    code = "image_too_large"


class Unauthorized(GimleError):
    """No valid API key was given."""

    code = "invalid_api_key"
    status = 401


class Forbidden(GimleError):
    """This key may not do that."""

    code = "forbidden"
    status = 403


class Unpriced(Forbidden):
    """Nobody knows what this model costs, and such calls are refused here."""

    code = "price_unknown"


class LicenceNotAccepted(Forbidden):
    """This model may be used under terms that must be agreed to."""

    code = "licence_not_accepted"


class NotFound(GimleError):
    """There is no such thing here."""

    code = "not_found"
    status = 404


class ModelNotFound(NotFound):
    """There is no such model."""

    code = "model_not_found"


class ProviderNotFound(NotFound):
    """There is no such provider."""

    code = "provider_not_found"


class CollectionNotFound(NotFound):
    """There is no such collection."""

    code = "collection_not_found"


class DocumentNotFound(NotFound):
    """There is no such document."""

    code = "document_not_found"


class DecisionNotFound(NotFound):
    """There is no such decision."""

    code = "decision_not_found"


class JobNotFound(NotFound):
    """There is no such job."""

    code = "job_not_found"


class KeyNotFound(NotFound):
    """There is no such key."""

    code = "key_not_found"


class QueryNotFound(NotFound):
    """There is no such query."""

    code = "query_not_found"


class TenantNotFound(NotFound):
    """There is no such tenant."""

    code = "tenant_not_found"


class BudgetNotFound(NotFound):
    """There is no such budget."""

    code = "budget_not_found"


class AllowanceNotFound(NotFound):
    """There is no such allowance."""

    code = "allowance_not_found"


class ResponseNotFound(NotFound):
    """There is no such response."""

    code = "response_not_found"


class FileNotKnown(NotFound):
    """There is no such file."""

    code = "file_not_found"


class PreviousResponseNotFound(NotFound):
    """There is no such response to build on."""

    code = "previous_response_not_found"


class RequestTimeout(GimleError):
    """The request did not arrive in time."""

    code = "request_timeout"
    status = 408


class Conflict(GimleError):
    """This contradicts what is already there."""

    code = "conflict"
    status = 409


class PayloadTooLarge(GimleError):
    """The request is too large."""

    code = "payload_too_large"
    status = 413


class UnsupportedDocument(GimleError):
    """This kind of document can't be read."""

    code = "unsupported_document"
    status = 415


class UnreadableDocument(GimleError):
    """The document is damaged or locked."""

    code = "unreadable_document"
    status = 422


class RateLimitedError(GimleError):
    """Too many requests. `after` is the seconds to wait, `limit` how much is allowed where the limit is ours."""

    code = "rate_limited"
    status = 429

    def __init__(
        self, message: str | None = None, *, after: float = 1.0, hint: str | None = None, limit: int | None = None
    ) -> None:
        super().__init__(message or "Too many requests.", hint=hint or f"Try again in {after:.0f} s.")
        self.after = after
        self.limit = limit


class BudgetExceeded(RateLimitedError):
    """A budget is spent. `after` is the number of seconds until it is renewed; infinite where it never is."""

    code = "budget_exceeded"


class QuotaExceeded(RateLimitedError):
    """A quota of this tenant is used up. `after` is the number of seconds until it is renewed."""

    code = "quota_exceeded"


class Overloaded(RateLimitedError):
    """Too many calls are waiting. `after` is the number of seconds after which there may be room."""

    code = "overloaded"


class TransientError(GimleError):
    """This failed, and trying again may help. `after` is the number of seconds to wait, where that is known."""

    code = "transient_error"
    status = 503

    def __init__(
        self,
        message: str | None = None,
        *,
        field: str | None = None,
        hint: str | None = None,
        after: float | None = None,
    ) -> None:
        super().__init__(message, field=field, hint=hint)
        self.after = after


class Unavailable(TransientError):
    """A part that this needs is not available now."""

    code = "unavailable"


class DatabaseUnavailable(TransientError):
    """The database does not answer."""

    code = "database_unavailable"


class LedgerUnavailable(TransientError):
    """The call can't be entered in the ledger, and such calls are refused here."""

    code = "ledger_unavailable"


class UpstreamError(TransientError):
    """The model's provider failed."""

    code = "upstream_error"
    status = 502


class UpstreamTimeout(UpstreamError):
    """The model's provider did not answer in time."""

    code = "upstream_timeout"
    status = 504
