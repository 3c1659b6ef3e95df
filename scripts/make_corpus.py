"""Makes the two binary documents of the example corpus, a PDF and a DOCX, from their Markdown sources.

    python scripts/make_corpus.py

The sources lie in `scripts/corpus/`, the results in `examples/corpus/`; both are committed. The sources use
four kinds of block only: `# title`, `## heading`, paragraph, and `---` for a new page.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

from docx import Document
from fpdf import FPDF

ROOT = Path(__file__).parent.parent
SOURCES = ROOT / "scripts" / "corpus"
CORPUS = ROOT / "examples" / "corpus"
# A fixed date keeps a second run from changing files whose text is the same.
MADE = datetime(2026, 5, 4, 9, 0, tzinfo=UTC)


def blocks(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield `(kind, text)` for each block; kind is title, heading, text or page."""
    for block in markdown.split("\n\n"):
        line = " ".join(block.split())
        if line.startswith("## "):
            yield "heading", line[3:]
        elif line.startswith("# "):
            yield "title", line[2:]
        elif line == "---":
            yield "page", ""
        elif line:
            yield "text", line


def write_pdf(source: Path, target: Path) -> None:
    """Set the source as an A4 document in a core font, one numbered page for each `---`."""
    pdf = FPDF(format="A4")
    pdf.set_margins(22, 20)
    pdf.set_creation_date(MADE)
    pdf.set_title(source.stem)
    pdf.add_page()
    for kind, text in blocks(source.read_text("utf-8")):
        if kind == "page":
            pdf.add_page()
        elif kind == "text":
            pdf.set_font("Times", size=11.5)
            pdf.multi_cell(0, 5.6, text, new_x="LMARGIN", new_y="NEXT")
            pdf.ln(2.5)
        else:
            pdf.set_font("Helvetica", style="B", size=18 if kind == "title" else 13)
            pdf.multi_cell(0, 8, text, align="L", new_x="LMARGIN", new_y="NEXT")
            pdf.ln(1.5)
    pdf.output(str(target))


def write_docx(source: Path, target: Path) -> None:
    """Set the source as a Word document with real heading styles."""
    document = Document()
    document.core_properties.created = document.core_properties.modified = MADE.replace(tzinfo=None)
    document.core_properties.author = "Birkenried"
    for kind, text in blocks(source.read_text("utf-8")):
        if kind == "page":
            document.add_paragraph().paragraph_format.page_break_before = True
        elif kind == "text":
            document.add_paragraph(text)
        else:
            document.add_heading(text, level=0 if kind == "title" else 1)
    document.save(str(target))


def main() -> None:
    """Write both documents."""
    write_pdf(SOURCES / "members-handbook.md", CORPUS / "members-handbook.pdf")
    write_docx(SOURCES / "satzung.md", CORPUS / "satzung.docx")


if __name__ == "__main__":
    main()
