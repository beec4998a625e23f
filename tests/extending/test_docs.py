"""docs/extending.md shows the examples that the tests of this folder use, word for word."""

from .conftest import EXAMPLES, ROOT


def test_every_example_is_shown_as_it_is() -> None:
    page = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
    shown = page.split("```python\n")[1:]
    texts = {path.name: path.read_text(encoding="utf-8") for path in sorted(EXAMPLES.glob("*.py"))}
    missing = [name for name, text in texts.items() if not any(part.startswith(text + "```\n") for part in shown)]
    assert not missing, f"docs/extending.md does not show {', '.join(missing)} as they are"
