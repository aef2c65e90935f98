"""Who may ask for what: one table. What is not in it needs an admin's key, so a new route is closed until it is put here."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from service.keys import Role

Asked = tuple[str, str]
"""Method and path."""
ROLES: Final[Mapping[Asked, Role | None]] = MappingProxyType(
    {
        ("GET", "/health/live"): None,
        ("GET", "/health/ready"): None,
        ("GET", "/demo/key"): None,
        ("GET", "/recommend"): Role.WIDGET,
        ("POST", "/recommend"): Role.WIDGET,
        ("POST", "/page"): Role.WIDGET,
        ("POST", "/events"): Role.WIDGET,
        ("GET", "/search"): Role.WIDGET,
        ("GET", "/events/verdicts"): Role.SERVER,
        ("GET", "/demo/shoppers"): Role.SERVER,
        ("POST", "/items"): Role.SERVER,
        ("PATCH", "/items"): Role.SERVER,
    }
)
"""The least role; None: no key at all."""
ITEM: Final = "/items/"
ITEM_ROLES: Final[Mapping[str, Role]] = MappingProxyType(
    {"GET": Role.WIDGET, "PUT": Role.SERVER, "DELETE": Role.SERVER}
)
"""By method, of the paths that begin with `ITEM`."""


class Access:
    """The table, and the storefront's files, which anybody may read."""

    def __init__(self, pages: frozenset[str] = frozenset()) -> None:
        """`pages` are paths, see `storefront_pages`."""
        self.pages: Final = pages
        self._roles = {
            **dict.fromkeys((method, page) for page in pages for method in ("GET", "HEAD")),
            **ROLES,
        }

    def needed(self, method: str, path: str) -> Role | None:
        """The least role of who asks; None where no key is needed. Paths are compared as they are: one that a server might take for another is unknown."""
        if path.startswith(ITEM):
            return ITEM_ROLES.get(method, Role.ADMIN)
        return self._roles.get((method, path), Role.ADMIN)


def storefront_pages(web: Path) -> frozenset[str]:
    """Paths of the files below `web`, less those of the console."""
    files = (file.relative_to(web) for file in web.rglob("*") if file.is_file())
    return frozenset({"/"} | {f"/{file.as_posix()}" for file in files if file.parts[0] != "console"})
