"""Each format keeps its words, pages and headings; each broken or hostile file gets its own reason."""

import io
import time
import zipfile
from pathlib import Path

import docx
import pytest
from fpdf import FPDF

from gimle.foundation import plugins
from gimle.foundation.config import KnowledgeSettings
from gimle.foundation.errors import GimleError, InvalidRequest, UnreadableDocument, UnsupportedDocument
from gimle.knowledge import parsing, sniff
from gimle.knowledge.layout import Piece
from gimle.knowledge.parsers.pdf import _complete
from gimle.knowledge.types import Parsed

SETTINGS = KnowledgeSettings(parse_seconds=60)
LAMP = "The lamp of Brennholm turns once in ten seconds."


async def read(name: str, data: bytes, settings: KnowledgeSettings = SETTINGS) -> Parsed:
    return await parsing.parse(data, kind(name, data), settings)


def kind(name: str, data: bytes, declared: str | None = None) -> str:
    return sniff.media_type(name, declared, data, parsing.extensions())


def shown(parsed: Parsed) -> list[tuple[str, int, str]]:
    return [(block.kind, block.level, parsed.text[block.start : block.end]) for block in parsed.blocks]


def make_pdf(pages: list[list[str]], password: str | None = None) -> bytes:
    """A PDF whose pages each have a running header, a heading, paragraphs, and a page number at the foot."""

    class Book(FPDF):
        def header(self) -> None:
            self.set_font("Helvetica", size=8)
            self.cell(0, 6, "Handbook of the Brennholm Light", new_x="LMARGIN", new_y="NEXT")

        def footer(self) -> None:
            self.set_y(-12)
            self.set_font("Helvetica", size=8)
            self.cell(0, 6, f"Page {self.page_no()}")

    book = Book()
    if password:
        book.set_encryption(owner_password="owner", user_password=password)
    for heading, *paragraphs in pages:
        book.add_page()
        book.set_font("Helvetica", "B", 18)
        book.cell(0, 10, heading, new_x="LMARGIN", new_y="NEXT")
        book.set_font("Helvetica", size=11)
        for paragraph in paragraphs:
            book.multi_cell(0, 6, paragraph)
            book.ln(4)
    return bytes(book.output())


def make_letter(lines: list[tuple[int, int, int, str]]) -> bytes:
    """One page with each line at its place, in millimetres from the left and the top, and in its size of type."""
    sheet = FPDF(format="A4")
    sheet.set_auto_page_break(False)
    sheet.add_page()
    for x, y, size, line in lines:
        sheet.set_font("Helvetica", size=size)
        sheet.text(x, y, line)
    return bytes(sheet.output())


def make_blank_pdf() -> bytes:
    """A page like that of a scan: there, but without a letter."""
    book = FPDF()
    book.add_page()
    return bytes(book.output())


def make_docx() -> bytes:
    document = docx.Document()
    document.add_heading("Manual", 1)
    document.add_paragraph(LAMP)
    document.add_heading("Times", 2)
    table = document.add_table(rows=2, cols=2)
    for row, cells in enumerate((("Month", "Hours"), ("June", "5"))):
        for column, text in enumerate(cells):
            table.cell(row, column).text = text
    target = io.BytesIO()
    document.save(target)
    return target.getvalue()


def make_bomb(megabytes: int, *, lie: bool = False) -> bytes:
    """A DOCX of some kilobytes that unpacks to a lot; one that lies says in its contents that it is small."""
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("[Content_Types].xml", "<Types/>")
        with archive.open("word/document.xml", "w", force_zip64=True) as part:
            for _ in range(megabytes):
                part.write(bytes(1 << 20))
    data = target.getvalue()
    if lie:
        size = (megabytes << 20).to_bytes(4, "little")
        assert size in data
        data = data.replace(size, (1000).to_bytes(4, "little"))
    return data


async def test_pdf_keeps_pages_and_headings_and_drops_the_furniture() -> None:
    long = "The keeper winds the clockwork each evening at dusk and writes the hour into the log of the house. " * 3
    pages = [
        ["Chapter one: light", LAMP, long],
        ["Chapter two: fog", "The horn sounds twice."],
        ["Chapter three", "End."],
    ]
    parsed = await read("book.pdf", make_pdf(pages))
    assert parsed.pages == 3
    assert [(b.page, parsed.text[b.start : b.end]) for b in parsed.blocks if b.kind == "heading"] == [
        (1, "Chapter one: light"),
        (2, "Chapter two: fog"),
        (3, "Chapter three"),
    ]
    assert LAMP in parsed.text
    assert long.strip() in parsed.text, "a paragraph over several lines is one run of text"
    assert "Handbook of" not in parsed.text
    assert "Page 2" not in parsed.text
    assert {b.page for b in parsed.blocks if "horn" in parsed.text[b.start : b.end]} == {2}


async def test_a_short_letter_as_pdf_loses_no_line() -> None:
    letter = [
        (20, 20, 10, "Bee club Lindau, Mill Lane 4"),
        (20, 50, 11, "Mr John Smith"),
        (20, 56, 11, "High Street 1"),
        (150, 80, 11, "3 May 2024"),
        (20, 100, 11, "Dear Mr Smith,"),
        (20, 110, 11, "The annual fee is 42 euros, due in March."),
        (20, 130, 11, "Yours sincerely,"),
        (20, 150, 11, "Anna Berg"),
        (20, 285, 8, "IBAN DE02 1203 0000 0000 2020 51"),
    ]
    parsed = await read("letter.pdf", make_letter(letter))
    assert parsed.text.split("\n") == [line for *_, line in letter]
    assert {block.page for block in parsed.blocks} == {1}


def test_a_pdf_keeps_what_stands_on_no_page_that_is_told() -> None:
    placed = [(Piece("text", "Mill Lane 4", page=1), False), (Piece("text", "The fee is 42 euros."), False)]
    assert list(_complete(placed, {1: "Mill Lane 4", 2: "Due in March."})) == [
        placed[0], (Piece("text", "Due in March.", page=2), False), placed[1],
    ]  # fmt: skip
    assert list(_complete(placed, {})) == placed


async def test_docx_keeps_headings_and_table_rows() -> None:
    assert shown(await read("manual.docx", make_docx())) == [
        ("heading", 1, "Manual"),
        ("text", 0, LAMP),
        ("heading", 2, "Times"),
        ("row", 1, "Month | Hours"),
        ("row", 0, "June | 5"),
    ]


async def test_html_keeps_what_a_reader_sees() -> None:
    page = (
        "<html><head><meta charset='iso-8859-1'><title>Not text</title><style>p{color:red}</style></head><body>"
        "<nav><a href='/'>Home</a></nav><h1>Öl &amp; Docht</h1>"
        "<p>Der <b>Wärter</b> füllt\n<a href='http://x/'>Öl</a> nach.</p>"
        "<ul><li>eins</li><li>zwei</li></ul><script>alert('x')</script></body></html>"
    )
    assert shown(await read("seite.html", page.encode("latin-1"))) == [
        ("heading", 1, "Öl & Docht"),
        ("text", 0, "Der Wärter füllt Öl nach."),
        ("item", 0, "- eins"),
        ("item", 0, "- zwei"),
    ]


@pytest.mark.parametrize(
    "named, written",
    [("iso-8859-1", "cp1252"), ("latin1", "cp1252"), ("utf-16", "utf-8"), ("iso-8859-15", "iso-8859-15")],
)
async def test_html_is_read_as_browsers_do(named: str, written: str) -> None:
    text = "100 € sagt Müller" if written == "iso-8859-15" else "100 € – sagt „Müller“"
    page = f"<html><head><meta charset='{named}'></head><body><p>{text}</p></body></html>\n"
    assert (await read("a.html", page.encode(written))).text == text


async def test_markdown_loses_its_marks_and_no_word() -> None:
    source = """---
title: not text
---
Lighthouse
==========

The **lamp** is [lit](http://x/) at *dusk*; snake_case_name and 2 * 3 * 4 stay.
Second line.

* one
* two
  goes on

```python
# no heading
x = {"a": 1}
```

| Month | Hours |
|-------|------:|
| June  | 5     |

## Sub ##
"""
    assert shown(await read("a.md", source.encode())) == [
        ("heading", 1, "Lighthouse"),
        ("text", 0, "The lamp is lit at dusk; snake_case_name and 2 * 3 * 4 stay.\nSecond line."),
        ("item", 0, "* one"),
        ("item", 0, "* two goes on"),
        ("code", 0, '# no heading\nx = {"a": 1}'),
        ("row", 1, "Month | Hours"),
        ("row", 0, "June | 5"),
        ("heading", 2, "Sub"),
    ]


async def test_two_rules_are_not_taken_for_a_head() -> None:
    assert (await read("a.md", b"---\n\nThe fee is 42.\n\n---\n\nEnd.")).text == "The fee is 42.\n\nEnd."
    assert (await read("a.md", b"---\n# about it\ntitle: x\n---\nEnd.")).text == "End."


@pytest.mark.parametrize(
    "name, text",
    [
        ("comments.md", "<!-- note -->\n" * 28 + "# Title"),
        ("blanks.md", "# Fees" + " " * 100_000 + "2024"),
        ("marks.md", "# Fees" + "#" * 100_000 + " " * 100_000 + "2024"),
        ("open.md", "<!--" * 100_000),
    ],
)
async def test_a_text_made_to_be_slow_is_read_at_once(name: str, text: str) -> None:
    """Regular expressions hold the interpreter: while one goes astray, nobody is served."""
    began = time.monotonic()
    assert (await read(name, text.encode())).text
    assert time.monotonic() - began < 5


async def test_csv_rows_name_their_columns() -> None:
    parsed = await read("tools.csv", b'Tool;Fee;Note\r\nDrill;"3,50";"big; red"\r\n\r\nSaw;2;\r\n')
    assert parsed.text == "Tool: Drill; Fee: 3,50; Note: big; red\n\nTool: Saw; Fee: 2"
    assert {block.kind for block in parsed.blocks} == {"row"}


@pytest.mark.parametrize(
    "table, rows",
    [
        ("Preisliste\nHonig, klein;8,50\nWachs;3,00\n", ["Preisliste: Honig, klein; 8,50", "Preisliste: Wachs; 3,00"]),
        ("Honig, klein;8,50\nHonig, groß;12,00\n", ["Honig, klein | 8,50", "Honig, groß | 12,00"]),
        ("\n" * 6 + "Tool;Fee\nSaw;2\n", ["Tool: Saw; Fee: 2"]),
        ("Saw,steel;wood,2\nDrill,steel;brass;tin,3\n", ["Saw | steel;wood | 2", "Drill | steel;brass;tin | 3"]),
        ('Tool,Note\n"Saw, old","cuts; rips"\n', ["Tool: Saw, old; Note: cuts; rips"]),
    ],
)
async def test_a_csv_is_cut_where_its_columns_end(table: str, rows: list[str]) -> None:
    assert (await read("a.csv", table.encode())).text.split("\n\n") == rows


async def test_plain_text_keeps_paragraphs_and_items() -> None:
    parsed = await read(
        "a.txt", b"One line\nand another.\n\n\n- first\n- second\n\n\x0cNext\x00 page.".replace(b"\x00", b"")
    )
    assert [kind for kind, _, _ in shown(parsed)] == ["text", "item", "item", "text"]
    assert parsed.text == "One line\nand another.\n\n- first\n- second\n\nNext page."


@pytest.mark.parametrize(
    "data, text",
    [
        ("Für".encode(), "Für"),
        ("Für".encode("utf-8-sig"), "Für"),
        ("Für".encode("utf-16"), "Für"),
        ("Für Öl".encode("cp1252"), "Für Öl"),
        ("Für viel Öl, über".encode() + b"\xff.", "Für viel Öl, über\ufffd."),
    ],
)
async def test_text_in_an_old_or_broken_encoding_is_read(data: bytes, text: str) -> None:
    assert (await read("a.txt", data)).text == text


@pytest.mark.parametrize(
    "name, data, found",
    [
        ("notes.txt", make_pdf([["A", LAMP]]), sniff.PDF),
        ("book", make_docx(), sniff.DOCX),
        ("page.txt", b"<!DOCTYPE html><html><body>x</body></html>", sniff.HTML),
        ("data.bin", b"just words", sniff.TEXT),
        ("main.py", b"print(1)", sniff.TEXT),
        ("readme.MD", b"# x", "text/markdown"),
        ("car.txt", b"MZ-AB 123 is its number plate.", sniff.TEXT),
        ("sound.md", b"ID3 tags are read by every player.", "text/markdown"),
        ("picture.md", b"GIF89a is the newer version.", "text/markdown"),
        ("formats.md", b"# Formats\n\nA PDF begins with `%PDF-1.7`.", "text/markdown"),
        ("late.pdf", b"junk\n" + make_pdf([["A", LAMP]]), sniff.PDF),
        ("song.txt", b"ID3\x04\x00\x00", UnsupportedDocument),
        ("evil.pdf", b"MZ\x90\x00\x03\x00", UnsupportedDocument),
        ("evil.txt", b"\x7fELF\x02\x01", UnsupportedDocument),
        ("text.pdf", b"only words", UnsupportedDocument),
        ("noise.txt", bytes(range(256)) * 4, UnsupportedDocument),
        ("photo.png", b"\x89PNG\r\n\x1a\n", UnsupportedDocument),
        ("files.zip", make_bomb(0).replace(b"word/document.xml", b"some/document.xml"), UnsupportedDocument),
        ("empty.pdf", b"", InvalidRequest),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
def test_a_file_is_what_its_bytes_say(name: str, data: bytes, found: str | type[GimleError]) -> None:
    if isinstance(found, str):
        assert kind(name, data) == found
        return
    with pytest.raises(found) as refused:
        kind(name, data)
    assert refused.value.field == "file"
    assert refused.value.hint


def test_a_refusal_names_what_is_supported() -> None:
    with pytest.raises(UnsupportedDocument) as refused:
        kind("a.exe", b"MZ\x90\x00")
    assert "pdf" in (refused.value.hint or "")
    assert "docx" in (refused.value.hint or "")


@pytest.mark.parametrize(
    "name, data, reason",
    [
        ("locked.pdf", make_pdf([["A", LAMP]], password="secret"), "encrypted"),
        ("cut.pdf", make_pdf([["A", LAMP]])[:700], "damaged"),
        ("blank.pdf", make_blank_pdf(), "no text"),
        ("cut.docx", make_docx()[:-200], "damaged"),
        ("torn.docx", make_docx().replace(b"word/document.xml", b"word/doc\xff\xfe\xfd\xfc.xml"), "damaged"),
        ("blank.md", b" \n\t\n", "no text"),
        ("bomb.docx", make_bomb(600), "unpacks to more"),
    ],
    ids=lambda value: value if isinstance(value, str) and len(value) < 20 else "",
)
async def test_a_broken_file_fails_alone_with_a_reason(name: str, data: bytes, reason: str) -> None:
    with pytest.raises(UnreadableDocument, match=reason):
        await read(name, data)


async def test_a_bomb_that_lies_about_its_size_is_refused_by_what_it_holds() -> None:
    with pytest.raises(UnreadableDocument, match="unpacks to more|damaged"):
        await read("bomb.docx", make_bomb(600, lie=True), KnowledgeSettings(parse_seconds=60, parse_memory_mb=1024))


@pytest.mark.parametrize(
    "settings, reason",
    [
        (KnowledgeSettings(parse_seconds=0), "longer than 0 s"),
        (KnowledgeSettings(parse_memory_mb=64), "breaks the parser|more than 64 MB"),
    ],
)
async def test_a_parser_that_needs_too_much_is_given_up(settings: KnowledgeSettings, reason: str) -> None:
    with pytest.raises(UnreadableDocument, match=reason):
        await read("manual.docx", make_docx(), settings)


async def test_a_large_text_has_limits_too() -> None:
    row = b"A tool;3,50;big and red\n"
    brief = KnowledgeSettings(parse_seconds=0)
    assert "Tool" in (await read("a.csv", b"Tool;Fee;Note\n" + row, brief)).text
    with pytest.raises(UnreadableDocument, match="longer than 0 s"):
        await read("a.csv", b"Tool;Fee;Note\n" + row * 50_000, brief)
    parsed = await read("a.csv", b"Tool;Fee;Note\n" + row * 50_000)
    assert parsed.text.count("Tool: A tool; Fee: 3,50; Note: big and red") == 50_000


@pytest.mark.parametrize("name", plugins.names(parsing.PARSERS))
def test_every_parser_declares_what_it_reads(name: str) -> None:
    plugin = plugins.load(parsing.PARSERS, name)
    assert plugin.READS
    assert isinstance(plugin.ISOLATED, bool)
    assert all(extensions and "/" in kind for kind, extensions in plugin.READS.items())


def test_every_format_of_the_examples_is_read() -> None:
    corpus = Path(__file__).parents[2] / "examples" / "corpus"
    for file in corpus.iterdir():
        assert kind(file.name, file.read_bytes()) == parsing.extensions()[file.suffix[1:]]
