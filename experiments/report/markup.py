"""Elements of HTML and SVG, with all text escaped."""

import html

__all__ = ["Markup", "element", "joined"]

_VOID = ("br", "hr", "link", "meta")


class Markup(str):
    """Text that is HTML already; any other text is escaped when it becomes a child of an element."""

    __slots__ = ()


def element(tag: str, /, *children: str, **attributes: object) -> Markup:
    """``element("td", "a < b", class_="number")``; an attribute that is None or False is left out."""
    written = "".join(_attribute(key, value) for key, value in attributes.items())
    return Markup(f"<{tag}{written}>" if tag in _VOID else f"<{tag}{written}>{joined(*children)}</{tag}>")


def joined(*children: str) -> Markup:
    return Markup("".join(c if isinstance(c, Markup) else html.escape(c, quote=False) for c in children))


def _attribute(key: str, value: object) -> str:
    name = key.rstrip("_").replace("_", "-")
    if value is None or value is False:
        return ""
    return f" {name}" if value is True else f' {name}="{html.escape(str(value))}"'
