"""Write the README into the package's metadata, with absolute addresses, because a package index has no other file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

RELATIVE_LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)")


class ReadmeHook(MetadataHookInterface):
    """Make the README's relative links and images absolute, at the tag of the version."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set ``readme`` from the file."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {
            "content-type": "text/markdown",
            "text": make_links_absolute(text, metadata["urls"]["Repository"], metadata["version"]),
        }


def make_links_absolute(text: str, repository: str, version: str) -> str:
    """Return Markdown whose links lead to the files of a version in the repository."""
    return RELATIVE_LINK.sub(
        lambda link: f"{link[1]}[{link[2]}]({repository}/{'raw' if link[1] else 'blob'}/v{version}/{link[3]})", text
    )
