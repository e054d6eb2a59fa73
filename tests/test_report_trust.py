"""A report's page runs nothing, whatever stands in the names, texts, errors and pictures that it shows."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest

from anyformer.evaluation.report import Exhibit, Part, Report, Result, SampleScore

PAYLOADS = (
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</pre></style></title><svg onload=alert(1)>",
    "javascript:alert(1)",
    "]]><!--",
    "&#60;script&#62;",
)


class Parsed(HTMLParser):
    """Tags with their attributes, and all text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words += data


def report(bad: str) -> Report:
    """The same words in every place that takes any."""
    results = [
        Result(
            bad,
            bad,
            f"{bad}{i}",
            None if i else 0.5,
            0.25,
            3,
            True,
            (0.1, 0.9),
            {bad: 0.25},
            2,
            1.0,
            bad if i else None,
        )
        for i in range(2)
    ]
    parts = [
        Part(bad, kind, content)
        for kind in ("text/plain", "image/png", "image/svg+xml", "audio/wav", "text/html", bad, f"image/{bad}")
        for content in (bad, bad.encode())
    ]
    samples = [SampleScore(bad, f"{bad}{i}", bad, f"{bad}0", i / 3) for i in range(3)]
    return Report(
        results, samples, 0, {bad: {bad: [bad]}}, bad, True, {"processor": bad, bad: bad}, bad, bad,
        [Exhibit(bad, bad, f"{bad}0", 0.5, parts)],
    )  # fmt: skip


@pytest.mark.parametrize("bad", PAYLOADS)
def test_words_stay_words(bad):
    page = Parsed(report(bad).html())
    allowed = {"html", "head", "meta", "title", "style", "body", "main", "header", "section", "article", "table"}
    assert not {"script", "iframe", "object", "embed", "link", "base", "form"} & {tag for tag, _ in page.tags}
    assert allowed & {tag for tag, _ in page.tags}
    for tag, attributes in page.tags:
        for name, value in attributes.items():
            assert not name.startswith("on"), (tag, name, value)
            if name in ("src", "href"):
                assert (value or "").startswith(("data:image/", "data:audio/", "#")), (tag, value)
    assert page.words.count("alert(1)") >= 5 or "alert" not in bad
