"""The colours of the page, light and dark, and the contrast that each pair must have.

Source: WCAG 2.2, success criteria 1.4.3 (text, 4.5 to 1) and 1.4.11 (graphics, 3 to 1).
"""

from __future__ import annotations

LIGHT = {
    "paper": "#ffffff",
    "panel": "#f4f6f8",
    "ink": "#1b2127",
    "quiet": "#55606b",
    "line": "#d6dce2",
    "link": "#0b5cad",
    "good": "#176b3a",
    "fair": "#8a5300",
    "bad": "#b3261e",
    "blank": "#727d88",
    "accent": "#1f5f8b",
    "second": "#a34a00",
    "band": "#c9dcea",
    "heat0": "#e6eef5",
    "heat1": "#bfd6e6",
    "heat2": "#f2c14e",
    "heat3": "#d9722b",
    "heat4": "#8f1d14",
}
DARK = {
    "paper": "#14181c",
    "panel": "#1d2328",
    "ink": "#e8ecf0",
    "quiet": "#a6b1bc",
    "line": "#37414a",
    "link": "#7db8f0",
    "good": "#5cc98a",
    "fair": "#f0b45a",
    "bad": "#ff8a80",
    "blank": "#8894a0",
    "accent": "#7db8f0",
    "second": "#f2a15e",
    "band": "#294459",
    "heat0": "#232c34",
    "heat1": "#33506a",
    "heat2": "#9a7413",
    "heat3": "#e0813a",
    "heat4": "#ffb3a7",
}
TEXTS = ("ink", "quiet", "link", "good", "fair", "bad")
"""Colours of words, on paper and on panels."""
GRAPHICS = ("accent", "second", "good", "fair", "bad", "blank")
"""Colours of lines and marks, on paper."""
LINEAR_SHARE = 0.04045
"""Up to here sRGB is linear. Source: IEC 61966-2-1."""
TEXT_CONTRAST, GRAPHIC_CONTRAST = 4.5, 3.0


def contrast(first: str, second: str) -> float:
    """Return the contrast ratio of two colours ``#rrggbb``, 1 to 21."""
    # 0.05 stands for the light that a screen reflects.
    brighter, darker = sorted((_luminance(first), _luminance(second)), reverse=True)
    return (brighter + 0.05) / (darker + 0.05)


def _luminance(colour: str) -> float:
    channels = []
    for start in (1, 3, 5):
        share = int(colour[start : start + 2], 16) / 255
        linear = share / 12.92 if share <= LINEAR_SHARE else ((share + 0.055) / 1.055) ** 2.4
        channels.append(linear)
    red, green, blue = channels
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def stylesheet_variables() -> str:
    """Return the custom properties of both themes; the reader's system chooses."""
    light = _properties(LIGHT)
    dark = _properties(DARK)
    return (
        f":root {{ color-scheme: light dark; {light} }}\n"
        f"@media (prefers-color-scheme: dark) {{ :root {{ {dark} }} }}\n"
    )


def _properties(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {value};" for name, value in colours.items())
