"""Which shipped model a prompt is for."""

from __future__ import annotations

from kinetext import assemble


def maker_for(prompt: str) -> str:
    """The shipped model of text to video that knows the prompt best: it lacks the fewest of the prompt's words. Of equals,
    the first by name.
    """
    lacking: dict[str, int] = {}
    for name in assemble.shipped():
        run = assemble.open_run(name)
        if run.recipe.task.name == "text_to_video" and (words := assemble.tokenizer(run.recipe, run.meta)):
            lacking[name] = len(words.unknown(prompt))
    return min(lacking, key=lacking.__getitem__)
