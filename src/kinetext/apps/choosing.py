"""Which shipped model a prompt is for."""

from __future__ import annotations

from kinetext import assemble
from kinetext.types import RunError, joined


def maker_for(prompt: str) -> str:
    """The shipped model of text to video that knows the prompt best: it lacks the fewest of the prompt's words. Of equals,
    the first by name.

    Raises:
        RunError: none is left, since folders of their names go before them, which make no clips.
    """
    lacking: dict[str, int] = {}
    hiding: list[str] = []
    for name in assemble.shipped():
        run = assemble.open_run(name)
        if run.recipe.task.name == "text_to_video" and (words := assemble.tokenizer(run.recipe, run.meta)):
            lacking[name] = len(words.unknown(prompt))
        elif not assemble.is_shipped(run):
            hiding.append(str(run.path.resolve()))
    if not lacking:
        raise RunError(
            f"model: {joined(hiding)} go before the shipped models of their names, and make no clips from text; "
            "name one that does (--model), or run this in another folder"
        )
    return min(lacking, key=lacking.__getitem__)
