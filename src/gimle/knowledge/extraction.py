"""The one call of kreuzberg. Runs in the sandbox's child only: the import takes a tenth of a second."""

from typing import TYPE_CHECKING, Any

from gimle.foundation.errors import UnreadableDocument

if TYPE_CHECKING:
    from kreuzberg import ExtractionResult


def extract(data: bytes, media_type: str, **config: Any) -> "ExtractionResult":
    """The extraction library's result, as Markdown, with nothing dropped as decoration and nothing cached on disk.

    Raises `UnreadableDocument` with a reason which the person who uploaded the file understands.
    """
    import kreuzberg

    settings = kreuzberg.ExtractionConfig(
        use_cache=False,
        enable_quality_processing=False,
        output_format="markdown",
        content_filter=kreuzberg.ContentFilterConfig(
            include_headers=True, include_footers=True, strip_repeating_text=False
        ),
        **config,
    )
    try:
        return kreuzberg.extract_bytes_sync(data, media_type, settings)
    except kreuzberg.KreuzbergError as failure:
        raise _reason(str(failure)) from failure


def _reason(failure: str) -> UnreadableDocument:
    lowered = failure.lower()
    if any(word in lowered for word in ("password", "encrypt", "decrypt")):
        return UnreadableDocument(
            "The file is encrypted; it opens only with a password.",
            hint="Save it without a password and upload it again.",
        )
    return UnreadableDocument(
        "The file is damaged or not what it claims to be; its content can't be read.",
        hint="Open it in the program that made it and save it anew.",
    )
