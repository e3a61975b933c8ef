"""Documents of a Hugging Face dataset, by streaming. Needs the `hf` extra."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import islice

from llama.data.document import Document
from llama.data.files import why_unusable
from llama.errors import UserError


def read_dataset(
    name: str,
    *,
    config: str | None,
    split: str,
    revision: str | None,
    text_field: str,
    max_documents: int | None,
    where: str,
    skipped: Counter[str],
) -> Iterator[Document]:
    """The dataset's records in its own order, the first `max_documents` of them.

    A zstd file that was cut short may end early unsaid: the library's reader takes the cut for the end.

    Raises:
        UserError: the `hf` extra is not installed, the dataset cannot be opened, or a record lacks the text field;
            `where` says whose dataset it is.
    """
    try:
        import datasets
    except ImportError:
        raise UserError(
            f"{where}: dataset {name!r} needs the hf extra, which is not installed: pip install 'isoloss[hf]'"
        ) from None
    try:
        records = datasets.load_dataset(name, config, split=split, revision=revision, streaming=True)
        for number, record in enumerate(islice(records, max_documents), start=1):
            if text_field not in record:
                raise UserError(
                    f"{where}: dataset {name!r} has no field {text_field!r}; its fields are: {', '.join(sorted(record))}"
                )
            if reason := why_unusable(record[text_field]):
                skipped[reason] += 1
            else:
                yield Document(id=str(record.get("id", number)), text=record[text_field], origin=name)
    except UserError:
        raise
    except (
        Exception
    ) as error:  # no network, no such name or split, a damaged file: each reader below has errors of its own
        raise UserError(f"{where}: dataset {name!r} cannot be read: {error or type(error).__name__}") from error
