"""Every word and mark of the page can be seen, in both themes (WCAG 2.2 AA)."""

from __future__ import annotations

import pytest

from nightshift.page.palette import (
    DARK,
    GRAPHIC_CONTRAST,
    GRAPHICS,
    LIGHT,
    TEXT_CONTRAST,
    TEXTS,
    contrast,
    stylesheet_variables,
)

THEMES = {"light": LIGHT, "dark": DARK}


def test_contrast_is_that_of_the_standard():
    assert contrast("#000000", "#ffffff") == pytest.approx(21.0)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.01)


@pytest.mark.parametrize("theme", THEMES)
def test_words_are_readable_on_paper_and_on_panels(theme):
    colours = THEMES[theme]
    pairs = {
        (name, on): contrast(colours[name], colours[on])
        for name in TEXTS
        for on in ("paper", "panel")
    }
    assert {pair: ratio for pair, ratio in pairs.items() if ratio < TEXT_CONTRAST} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_lines_and_marks_stand_out_from_paper(theme):
    colours = THEMES[theme]
    ratios = {name: contrast(colours[name], colours["paper"]) for name in GRAPHICS}
    assert {name: ratio for name, ratio in ratios.items() if ratio < GRAPHIC_CONTRAST} == {}


@pytest.mark.parametrize("theme", THEMES)
def test_text_on_bars_and_dots_on_cells_are_seen(theme):
    colours = THEMES[theme]
    bars = [contrast(colours["ink"], colours[bar]) for bar in ("heat1", "band", "heat0")]
    assert min(bars) >= TEXT_CONTRAST
    # A dot has an edge of paper: one of the two stands out from each colour.
    for step in range(5):
        cell = colours[f"heat{step}"]
        assert max(contrast(colours[name], cell) for name in ("ink", "paper")) >= GRAPHIC_CONTRAST


def test_both_themes_have_the_same_names():
    assert LIGHT.keys() == DARK.keys()
    assert "prefers-color-scheme: dark" in stylesheet_variables()
