"""Hub: an exported folder as a repository of huggingface_hub."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path

from gendiff.errors import DataError, GendiffError, reason
from gendiff.extra import extra
from gendiff.run.exporting.written import CARD, export
from gendiff.run.trained import TrainedModel
from gendiff.sampler import Sampler


@dataclass(frozen=True)
class Pushed:
    """What went, or would go.

    Args:
        files: bytes of each, by its name in the repository.
        card: the text of the model card.
        url: of the repository; empty where nothing went.

    """

    files: dict[str, int]
    card: str
    url: str


def push(
    model: TrainedModel,
    repository: str,
    to: str = "diffusers",
    sampler: Sampler | None = None,
    *,
    private: bool = False,
    dry: bool = False,
) -> Pushed:
    """Export a model, and upload the folder in one commit; ``dry`` looks at what would go, and needs no network.

    Args:
        repository: ``NAME`` or ``OWNER/NAME``; made where it does not exist.
        to, sampler: as of `export`.
        private: of a repository that is made.

    Raises:
        PluginError: without huggingface_hub.
        DataError: where nobody is logged in, or the Hub refuses.

    """
    if not dry:
        extra("huggingface_hub", "the Hub", name="diffusers")
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "export"
        export(model, to, folder, sampler, name=repository)
        files = {
            str(file.relative_to(folder)): file.stat().st_size for file in sorted(folder.rglob("*")) if file.is_file()
        }
        return Pushed(files, (folder / CARD).read_text(), "" if dry else _uploaded(folder, repository, model, private))


def _uploaded(folder: Path, repository: str, model: TrainedModel, private: bool) -> str:
    import huggingface_hub

    api = huggingface_hub.HfApi()
    if not huggingface_hub.get_token():
        raise DataError(
            "nobody is logged in to the Hub",
            details=["a token with the right to write is needed"],
            fix="log in: hf auth login, or set HF_TOKEN; look at what would go with --dry-run",
        )
    try:
        name = api.create_repo(repository, private=private, exist_ok=True).repo_id
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Step {model.step}, {model.weights} weights"
        )
    except GendiffError:
        raise
    except Exception as error:  # the Hub, its library and the network raise many things
        raise DataError(
            f"the Hub did not take '{repository}': {reason(error)}",
            details=["a repository is NAME or OWNER/NAME; the token must be allowed to write there"],
            fix="look who is logged in: hf auth whoami; export to a folder meanwhile: gendiff export",
        ) from error
    return f"https://huggingface.co/{name}"
