from limaml.pages import Cell, Page, Section, Table, new_figure


def page_with_figure() -> str:
    figure = new_figure()
    figure.subplots().plot([0, 1], [1, 0], label="line")
    return Page(title="A page", sections=[Section("Curve", figures=[figure])]).html()


def test_every_text_is_escaped() -> None:
    evil = "<script>alert(1)</script>"
    html = Page(
        title=evil,
        lead=[evil],
        badge=Cell(evil, "bad"),
        sections=[Section(evil, [evil], [Table([evil], [[evil], [Cell(evil, "good")]])], notes=[evil])],
        footer=evil,
    ).html()
    assert "<script" not in html
    assert html.count("&lt;script&gt;alert") == 11  # the title twice: in the head and above the page


def test_nothing_is_loaded_from_elsewhere() -> None:
    html = page_with_figure()
    assert "<svg" in html
    for loader in ("<script", "<link", "src=", 'href="http', "@import", "url(http"):
        assert loader not in html


def test_equal_content_gives_equal_bytes() -> None:
    assert page_with_figure() == page_with_figure()


def test_numbers_are_aligned_and_verdicts_coloured() -> None:
    html = Page(
        "A page", sections=[Section(tables=[Table(["check", "value"], [["age", Cell("3", "bad")]], [1])])]
    ).html()
    assert '<td class="number bad">3</td>' in html
    assert '<th class="number">value</th>' in html


def test_a_section_keeps_the_order_text_table_figure_note() -> None:
    figure = new_figure()
    figure.subplots()
    html = Page("A page", sections=[Section("S", ["para"], [Table(["h"], [["cell"]])], [figure], ["small"])]).html()
    places = [html.index(part) for part in ("<h2>S", "para", ">cell<", "<svg", 'class="note">small')]
    assert places == sorted(places)


def test_a_page_stays_far_below_a_megabyte_whatever_is_in_it() -> None:
    """The Kubeflow UI shows no more, and a log of thousands of features has thousands of rows."""
    figure = new_figure()
    figure.subplots().barh(range(40), range(40))
    rows = [[f"feature_{i}", Cell("x" * 10_000, "bad"), i, 0.5, "holds"] for i in range(50_000)]
    tables = [Table(["feature", "value", "number", "ratio", "verdict"], rows, (2, 3))] * 3
    section = Section("Features", ["y" * 100_000], tables, [figure], ["z" * 100_000])
    html = Page("A page", ["w" * 100_000], sections=[section]).html()
    assert len(html.encode()) < 700_000
    assert html.count("… and 49,700 more rows") == 3
    assert "feature_299<" in html
    assert "feature_300<" not in html
