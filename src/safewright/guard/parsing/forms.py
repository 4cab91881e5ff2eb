"""Web pages as an agent sees them: the field a call would fill, what hides it, its twins, and what is said to it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

MOST_HTML = 192 * 1024
"""Letters of a page that are looked at."""
MOST_ELEMENTS = 20_000

_VOID = frozenset(("area base br col embed hr img input link meta source track wbr").split())  # noqa: SIM905
FIELDS = frozenset(("input", "textarea", "select", "button"))
TARGETS = (
    "element", "selector", "target", "ref", "field", "locator", "css", "xpath", "element_id", "elementid", "id", "uid",
    "name", "node",
)  # fmt: skip
"""Arguments that say which element is meant."""
PAGES = (
    "html",
    "page",
    "dom",
    "snapshot",
    "choices",
    "elements",
    "options",
    "observation",
    "content",
    "document",
)
_TAG = re.compile(r"<[A-Za-z!/]")


@dataclass
class Element:
    """An element of a page, with what stands around it."""

    tag: str
    attributes: dict[str, str]
    parent: Element | None = None
    texts: list[str] = field(default_factory=list)
    children: list[Element] = field(default_factory=list)
    form: Element | None = None
    style: dict[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The text directly within it."""
        return " ".join(" ".join(self.texts).split())

    def above(self) -> Iterator[Element]:
        """What it stands in, nearest first."""
        node = self.parent
        while node is not None:
            yield node
            node = node.parent

    def says(self) -> str:
        """Itself, in short, for evidence."""
        named = [
            f'{name}="{self.attributes[name][:40]}"' for name in ("id", "name") if self.attributes.get(name)
        ]
        return f"<{' '.join([self.tag, *named])}>"


@dataclass(frozen=True)
class Form:
    """What a web call would fill.

    Args:
        asked: How the call names the element; empty where it names none.
        targets: The elements it may mean.
        fields: All fields of the page.
        page: Whether a page (or a list of choices) was given at all.
        unread: Why the page could not be read.
    """

    asked: str = ""
    targets: tuple[Element, ...] = ()
    fields: tuple[Element, ...] = ()
    page: bool = False
    unread: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)


def parse_form(arguments: Mapping[str, Any], page: str = "") -> Form:
    """The field a web tool's call would fill.

    Args:
        arguments: Of the call. The element is named by id, name or selector, or given as HTML.
        page: The HTML of the page, where the arguments hold none.
    """
    asked, own = _asked(arguments)
    html = _page(arguments, own) or page
    if len(html) > MOST_HTML or len(asked) > MOST_HTML:
        return Form(asked[:200], unread=f"the page is longer than {MOST_HTML:,} letters")
    if not asked:
        return Form(page=bool(html))
    document = _read(html) if html else None
    given = _read(asked) if _TAG.search(asked) else None
    for each in (document, given):
        if each is not None and each.overflow:
            return Form(asked[:200], unread=f"the page has more than {MOST_ELEMENTS:,} elements")
    elements = document.elements if document else []
    fields = tuple(each for each in elements if each.tag in FIELDS)
    labels = document.labels() if document else {}
    if given is not None:
        wanted = next((each for each in given.elements if each.tag in FIELDS), None)
        wanted = wanted or next(iter(given.elements), None)
        same = [each for each in elements if wanted is not None and _alike(each, wanted)]
        # Where the page does not hold it, the element's own text is all there is.
        targets = tuple(same) or (() if elements or wanted is None else (wanted,))
        return Form(asked[:200], targets, fields, True, labels={**given.labels(), **labels})
    targets = tuple(each for each in elements if _matches(each, asked))
    return Form(asked[:200], targets, fields, bool(elements), labels=labels)


def _asked(arguments: Mapping[str, Any]) -> tuple[str, str]:
    """How a call names the element, and by which argument."""
    lowered = {name.lower(): name for name in arguments}
    for name in TARGETS:
        if name not in lowered:
            continue
        value = arguments[lowered[name]]
        if isinstance(value, Mapping):
            inner, _ = _asked(value)
            if not inner and isinstance(value.get("html"), str):
                inner = value["html"]
            if inner:
                return inner, lowered[name]
        if isinstance(value, str) and value.strip():
            text = value.strip()
            if name in ("id", "element_id", "elementid") and not _TAG.search(text):
                text = f"#{text.lstrip('#')}"
            elif name == "name" and not _TAG.search(text):
                text = f"[name={text}]"
            return text, lowered[name]
        if isinstance(value, int) and not isinstance(value, bool):
            return f"#{value}", lowered[name]
    return "", ""


def _page(arguments: Mapping[str, Any], own: str) -> str:
    found = []
    for name, value in arguments.items():
        if name == own:
            continue
        if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
            value = "\n".join(value)
        if isinstance(value, str) and _TAG.search(value):
            found.append((name.lower() in PAGES, len(value), value))
    return max(found)[2] if found else ""


def _alike(element: Element, wanted: Element) -> bool:
    """Whether an element of the page may be the one that was given as HTML."""
    if element.tag != wanted.tag:
        return False
    for name in ("id", "name", "type"):
        if wanted.attributes.get(name) and element.attributes.get(name) != wanted.attributes[name]:
            return False
    if wanted.attributes.get("id") or wanted.attributes.get("name"):
        return True
    return all(element.attributes.get(name) == value for name, value in wanted.attributes.items())


_SIMPLE = re.compile(
    r"(?P<tag>[A-Za-z][\w-]{0,40})?(?P<rest>(?:#[\w:.\\-]{1,200}|\.[\w-]{1,200}|\[[^\]]{1,300}\])*)\Z"
)
_PART = re.compile(r"#([\w:\\-]+(?:\.[\w-]+)?)|\.([\w-]+)|\[([^\]]+)\]")
_XPATH = re.compile(r"//(\*|[\w-]{1,40})\[@([\w-]{1,40})=['\"]([^'\"]{1,200})['\"]\]\Z")


def _matches(element: Element, selector: str) -> bool:
    """Whether an element is what a plain name or a selector means; of a long selector, its last part counts."""
    text = selector.strip()
    xpath = _XPATH.match(text)
    if xpath is not None:
        tag, name, value = xpath.groups()
        return tag in ("*", element.tag) and element.attributes.get(name.lower()) == value
    if text in (element.attributes.get("id"), element.attributes.get("name")):
        return True
    if any(
        text == element.attributes.get(name) for name in ("aria-label", "placeholder", "data-testid", "ref")
    ):
        return True
    for option in text.split(","):
        if option.strip() and _simple(element, re.split(r"[\s>+~]+", option.strip())[-1]):
            return True
    return False


def _simple(element: Element, selector: str) -> bool:
    found = _SIMPLE.match(selector)
    if not selector or found is None or (found["tag"] and found["tag"].lower() != element.tag):
        return False
    if not found["rest"]:
        # A bare word is a tag only where it is one of a field's.
        return bool(found["tag"]) and found["tag"].lower() in FIELDS
    for name, kind, attribute in _PART.findall(found["rest"]):
        if name and element.attributes.get("id") != name.replace("\\", ""):
            return False
        if kind and kind not in element.attributes.get("class", "").split():
            return False
        if attribute and not _attribute(element, attribute):
            return False
    return True


def _attribute(element: Element, text: str) -> bool:
    name, equals, value = text.partition("=")
    operator = name[-1:] if name[-1:] in "*^$~|" else ""
    there = element.attributes.get(name.rstrip("*^$~|").strip().lower())
    wanted = value.strip().strip("\"'")
    if there is None or not equals:
        return there is not None
    if operator == "*":
        return wanted in there
    if operator == "^":
        return there.startswith(wanted)
    if operator == "$":
        return there.endswith(wanted)
    return wanted in there.split() if operator == "~" else there == wanted


class _Document(HTMLParser):
    """Elements in order, each with what it stands in; style sheets of simple selectors applied."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self.open: list[Element] = []
        self.sheets: list[str] = []
        self.overflow = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if len(self.elements) >= MOST_ELEMENTS:
            self.overflow = True
            return
        attributes: dict[str, str] = {}
        for name, value in attrs:
            attributes.setdefault(name, value or "")  # browsers keep the first of two
        form = next((each for each in reversed(self.open[-200:]) if each.tag == "form"), None)
        element = Element(tag, attributes, self.open[-1] if self.open else None, form=form)
        self.elements.append(element)
        if element.parent is not None:
            element.parent.children.append(element)
        if tag not in _VOID:
            self.open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag in FIELDS and self.open and self.open[-1] is self.elements[-1]:
            self.open.pop()  # lists of choices write fields that way

    def handle_endtag(self, tag: str) -> None:
        for index in range(len(self.open) - 1, max(-1, len(self.open) - 200), -1):
            if self.open[index].tag == tag:
                del self.open[index:]
                return

    def handle_data(self, data: str) -> None:
        if not self.open:
            return
        if self.open[-1].tag == "style":
            self.sheets.append(data)
        elif data.strip():
            self.open[-1].texts.append(data.strip())

    def labels(self) -> dict[str, str]:
        """The texts of labels by the id of the field they are for."""
        return {
            each.attributes["for"]: each.text
            for each in self.elements
            if each.tag == "label" and each.attributes.get("for") and each.text
        }


_RULE = re.compile(r"([^{}]{1,500})\{([^{}]{0,2000})\}")


def _read(html: str) -> _Document:
    document = _Document()
    document.feed(html)
    document.close()
    rules = [
        (selector.strip(), declarations(body))
        for selectors, body in _RULE.findall(re.sub(r"/\*[^*]{0,2000}\*/", "", "\n".join(document.sheets)))[
            :500
        ]
        for selector in selectors.split(",")
    ]
    for element in document.elements:
        for selector, style in rules:
            last = re.split(r"[\s>+~]+", selector)[-1] if selector else ""
            if last and last != "*" and _styled(element, last):
                element.style.update(style)
        element.style.update(declarations(element.attributes.get("style", "")))
    return document


def _styled(element: Element, selector: str) -> bool:
    return selector.lower() == element.tag or (
        ("." in selector or "#" in selector or "[" in selector) and _simple(element, selector)
    )


def declarations(text: str) -> dict[str, str]:
    """Declarations of a style, without comments, in lower case."""
    found = {}
    for each in re.sub(r"/\*[^*]{0,200}\*/", "", text[:4000]).split(";"):
        name, colon, value = each.partition(":")
        if colon:
            found[name.strip().lower()] = value.replace("!important", "").strip().lower()
    return found
