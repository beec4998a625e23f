"""What pyproject.toml cannot say: the description that is published with the package.

It is the README without its links into the repository, which would lead nowhere on a package index: the text of each
stays, with the path in the source distribution. (Links that work in both need a public address, and there is none.)
"""

import re
from pathlib import Path

from setuptools import setup

LINK = re.compile(r"!?\[([^]]+)\]\((?!https?://)([^)]+)\)")


def without_link(found: re.Match[str]) -> str:
    """Text and path of a link to a file; once where they are the same."""
    text, path = found.groups()
    return path if text == path else f"{text} ({path})"


setup(
    long_description=LINK.sub(without_link, Path("README.md").read_text(encoding="utf-8")),
    long_description_content_type="text/markdown",
)
