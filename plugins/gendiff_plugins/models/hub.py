"""The Hub: files of a repository of huggingface_hub, at one commit of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gendiff.errors import DataError, reason
from gendiff.extra import extra

NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def names(path: str) -> bool:
    """Whether a path names a repository, ``ORG/NAME``: one that lies in a folder that is here is a path of this machine."""
    return bool(NAME.fullmatch(path)) and not Path(path).parent.exists()


def fetched(
    repository: str, revision: str = "", wanted: Callable[[Sequence[str]], Sequence[str]] = list
) -> tuple[Path, str]:
    """The folder of a repository's files, downloaded unless they lie in the cache of huggingface_hub, and their commit.

    Args:
        repository: ``ORG/NAME``.
        revision: a branch, a tag or a commit; left out, what is newest. A commit that is in the cache needs no network.
        wanted: of the names of all files those that are needed.

    Raises:
        PluginError: without the library.
        DataError: where the Hub cannot be reached and they are not in the cache, and where it has no such repository.

    """
    hub = extra("huggingface_hub", "what lies on the Hub", "model.path", "diffusers", "give a folder")
    if re.fullmatch("[0-9a-f]{40}", revision) and (folder := _cached(hub, repository, revision)):
        return folder, revision
    try:
        info: Any = hub.HfApi().model_info(repository, revision=revision or None)
        files = wanted([file.rfilename for file in info.siblings])
        folder = Path(hub.snapshot_download(repository, revision=info.sha, allow_patterns=list(files)))
    except (DataError, KeyboardInterrupt):
        raise
    except Exception as error:  # the Hub, its library and the network raise many things
        if folder := _cached(hub, repository, revision):
            return folder, folder.name  # the cache calls it by its commit
        raise DataError(
            f"there is no '{repository}' here, and the Hub did not give it: {reason(error)}",
            details=[
                f"a folder of that name would be in {Path.cwd()}",
                "a repository is ORG/NAME; one that is private or gated needs a login: hf auth login",
            ],
            fix=f"where there is a network: hf download {repository} --local-dir DIR; and give DIR",
            subject="model.path",
        ) from error
    return folder, str(info.sha)


def _cached(hub: Any, repository: str, revision: str) -> Path | None:
    """The folder in the cache; None where it is not there."""
    try:
        return Path(hub.snapshot_download(repository, revision=revision or None, local_files_only=True))
    except Exception:
        return None
